"""The words that mean something where a knob otherwise takes a text, and what is close to them."""

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
