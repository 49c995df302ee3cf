"""Check knobs that are texts: words with a meaning, and what is close to them; paths; a sign."""

from typing import Any

from lmft.errors import UserError

# What people write for a word of the knob -> the word that they may mean; the word itself too.
SEPARATORS = {  # of dataset.separator
    "eos": "eos", "none": "none", "model": "model", "null": "none", "bos": "model", "sep": "eos",
    "pad": "none",
}  # fmt: skip
PREFIXES = {  # of evaluation.prefix
    "none": "none", "bos": "bos", "null": "none", "eos": "bos", "model": "bos",
}  # fmt: skip


def check_word(knob: str, value: str, words: dict[str, str]) -> None:
    """Check that a value is one of the words, or a text that nobody writes for one.

    Raises:
        UserError: it is close to a word, or is one but for case.
    """
    meant = words.get(value.lower())
    if meant is not None and value not in words.values():
        raise UserError(f"{knob} is {value!r}, which would be a text; did you mean {meant}?")


def check_delimiter(knob: str, value: str | None) -> None:
    """Check that a value is one character that can part two fields; a tab may be typed.

    Raises:
        UserError: it is not.
    """
    if value is not None and (len(value.replace("\\t", "\t")) != 1 or value in '"\r\n'):
        raise UserError(
            f"{knob} is {value!r}, but must be one character, such as ; or | or \\t; set it to "
            "what parts the fields of the files, or to null."
        )


def as_paths(knob: str, value: Any) -> str | list[str] | None:
    """Return the value of a knob that is a path or a list of paths, or null.

    Raises:
        UserError: it is something else.
    """
    if value is None:
        return None
    if isinstance(value, list) and value and all(map(_is_path, value)):
        return [str(path) for path in value]
    if not _is_path(value):
        raise UserError(
            f"{knob} is {value!r}; set it to a file, a folder or a glob, or to a list of them: "
            f"{knob}=[a.txt,b.txt]."
        )
    return str(value)


def _is_path(value: Any) -> bool:
    return isinstance(value, str | int | float) and str(value).strip() != ""
