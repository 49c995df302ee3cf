"""Quote texts that Hydra's grammar can't read, such as paths with `~`, `#`, `=` or an accent."""

import re
import shlex
from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from lmft.config.groups import known_groups
from lmft.config.schema import RunConfig, knobs

WORD = re.compile(r"(\+{0,2}([\w./]+))=(.*)", re.DOTALL)
# Of groups whose members differ in code, so that the schema does not list their knobs.
TEXT_GROUPS = ("tracker.", "dataset.source.")
PATH_LISTS = {name for name, declared in knobs() if declared.get("is_path_list")}
PATHS = re.compile(r"\s*\[(.*)\]\s*", re.DOTALL)
# One of several values, with commas between them.
VALUE = re.compile(r"""(?:\A|,)((?:\[[^\[\]]*\]|'[^']*'|"[^"]*"|[^,])*)""", re.DOTALL)
# What Hydra's grammar means by its signs: quotes, ${...}, [...], {...}, choice(...).
GRAMMAR = re.compile(r"""\s*['"]|.*\$\{|\s*\[.*\]\s*\Z|\s*\{.*\}\s*\Z|[a-z_]+\(.*\)\Z""", re.DOTALL)


def quote(text: str) -> str:
    """Return `text` as Hydra's grammar writes any text."""
    # A backslash counts only before a quote.
    escaped = re.sub(r"(\\*)('|\Z)", lambda end: 2 * end[1] + (end[2] and "\\'"), text)
    return f"'{escaped}'"


def quote_texts(words: Iterable[str], sweep: bool = False) -> list[str]:
    """Return overrides in which values that are texts, but can't be read as they are, are quoted.

    Args:
        words: the overrides.
        sweep: commas part values, so that each of these is a text.
    """
    return [_quoted(word, sweep) for word in words]


def word_to_type(key: str, value: str) -> str:
    """Return the word for a shell that sets the knob `key` to the text `value`."""
    mark = "'" if '"' in value else '"'
    return shlex.quote(
        f"{key}={mark}{value}{mark}" if mark not in value else f"{key}={quote(value)}"
    )


def is_text(knob: str) -> bool:
    """Return whether the values of a knob are texts."""
    return knob in _TEXT_KNOBS or (knob.startswith(TEXT_GROUPS) and not knob.endswith("._target_"))


def _quoted(word: str, sweep: bool) -> str:
    match = WORD.fullmatch(word)
    if match is not None and match[3][:1].isdigit() and match[2] in known_groups():
        return f"{match[1]}={','.join(map(quote, match[3].split(',')))}"  # no number, but a name
    if match is None or not is_text(match[2]) or _can_be_read(word):
        return word
    key, value = match[1], match[3]
    if match[2] in PATH_LISTS and (sweep or PATHS.fullmatch(value)):
        parts = _split(value) if sweep else [value]
        return f"{key}={','.join(map(_quoted_path, parts))}"
    if GRAMMAR.match(value):
        return word
    if "," not in value:
        return f"{key}={quote(value)}"
    if not sweep:  # does the comma part two values?
        return word
    parts = [part if _can_be_read(f"{key}={part}") else quote(part) for part in value.split(",")]
    return f"{key}={','.join(parts)}"


def _quoted_path(text: str) -> str:
    """Return a path, or a list of paths, as Hydra's grammar writes it."""
    if _can_be_read(f"path={text}"):
        return text
    if paths := PATHS.fullmatch(text):
        return f"[{','.join(map(_quoted_path, _split(paths[1])))}]"
    return text if GRAMMAR.match(text) else quote(text.strip())


def _split(values: str) -> list[str]:
    """Return the values that commas part, but for commas in brackets and quotes."""
    return VALUE.findall(values)


def _can_be_read(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def _text_knobs(schema: type, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, hint in get_type_hints(schema).items():
        kinds: Any = set(get_args(hint) or [hint])
        if f"{prefix}{name}" in PATH_LISTS or (str in kinds and not kinds & {int, float, dict}):
            found.add(f"{prefix}{name}")
        elif isinstance(hint, type) and is_dataclass(hint):
            found |= _text_knobs(hint, f"{name}.")
    return found


_TEXT_KNOBS = _text_knobs(RunConfig)
