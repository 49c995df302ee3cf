"""Text that only says something: no command to a terminal, no order of letters turned round."""

import unicodedata

JOINERS = "\u200c\u200d\u00ad"  # of letters and emoji, and the soft hyphen
REPLACEMENT = "\ufffd"


def plain(text: str, lines: bool = True) -> str:
    """The text with each control character replaced, bidirectional ones too.

    Args:
        text: from a corpus, a file's name or a model's.
        lines: whether newlines and tabs may stay; else each is a space.
    """
    if text.isascii() and text.isprintable():
        return text
    kept = "".join(c if _is_plain(c) else REPLACEMENT for c in text)
    return kept if lines else kept.replace("\n", " ").replace("\t", " ")


def _is_plain(character: str) -> bool:
    if character in "\n\t" or character in JOINERS:
        return True
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
