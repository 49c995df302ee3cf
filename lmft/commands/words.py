"""Check the words of a command line; turn the arguments of a Python call into words."""

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

from lmft.commands.verbs import VERBS
from lmft.config.compose import CONFIG_DIR
from lmft.config.quoting import quote
from lmft.errors import UserError, did_you_mean

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
    return [_with_absolute_folder(word) if word.startswith(CONFIG_DIR) else word for word in words]


def _with_absolute_folder(word: str) -> str:
    folder = Path(word.removeprefix(CONFIG_DIR)).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(f"{word!r} names no folder; check the path.")
    return f"{CONFIG_DIR}{folder}"


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


def refuse_knobs(verb: str, words: list[str]) -> None:
    """Refuse words that set a knob which the verb lacks; a folder's name may have a `=`.

    Raises:
        UserError: there is one.
    """
    knobs = [knob.name for knob in VERBS[verb].knobs]
    for word in words:
        name, equals, _ = word.partition("=")
        if equals and not Path(word).is_dir():
            raise UserError(
                f"lmft {verb} has no knob {name!r}; it has {', '.join(knobs)}."
                + did_you_mean(name, knobs)
            )


def one_run(verb: str, arguments: Namespace) -> str:
    """Return the one run that a line names, as a word or by run=.

    Raises:
        UserError: it names none, or several.
    """
    named = [*arguments.words, *([arguments.run] if arguments.run else [])]
    refuse_knobs(verb, named)
    if len(named) != 1:
        found = f"not {len(named)}" if named else "one of those that lmft runs lists"
        raise UserError(f"lmft {verb} takes one run, {found}, as in {VERBS[verb].example}.")
    return str(named[0])
