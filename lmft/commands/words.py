"""Turn the arguments of a Python call into the command line's words."""

import re
from typing import Any

from lmft.config.compose import CONFIG_DIR
from lmft.config.quoting import quote
from lmft.errors import UserError

NAME = re.compile(r"(?!(null|true|false|inf|nan)$)[a-z_/][\w./-]*", re.IGNORECASE | re.ASCII)


def check_words(words: tuple[Any, ...]) -> list[str]:
    """Return the words of a call.

    Raises:
        UserError: one is not a word, or is a flag.
    """
    for word in words:
        if not isinstance(word, str):
            raise UserError(f'{word!r} is not a word such as "seed=1"; pass a list as *words.')
        if word.startswith("-") and not word.startswith(CONFIG_DIR):
            raise UserError(f"{word!r} is a flag of the command line; leave it out.")
    return list(words)


def as_words(values: dict[str, Any]) -> list[str]:
    """Return keyword arguments as the command line's words; None leaves one out."""
    return [f"{name}={as_word(value)}" for name, value in values.items() if value is not None]


def as_word(value: Any) -> str:
    """Return a value in the grammar of Hydra's overrides; a text in quotes if it needs them."""
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, dict):
        return f"{{{','.join(f'{name}:{as_word(item)}' for name, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_word, value))}]"
    text = str(value)
    return text if NAME.fullmatch(text) else quote(text)
