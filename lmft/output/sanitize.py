"""Make text safe to show and keep: no secrets, no terminal control characters.

Processes keep working with the real values; only texts that go to a folder, a store, a log or a
screen pass here.
"""

import logging
import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from omegaconf import OmegaConf

JOINERS = "\u200c\u200d\u00ad"  # of letters and emoji, and the soft hyphen

REPLACEMENT = "\ufffd"


def strip_control(text: str, lines: bool = True) -> str:
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


HIDDEN = "HIDDEN"  # a word that YAML, shells and Hydra read as it is

LEAST = 6  # characters of a secret that is hidden wherever it stands: shorter ones are words, too

# Names whose values are secret; a tokenizer's eos_token and its like are not.
NAME = (
    r"(?:\w*(?:password|passwd|passphrase|secret|api_?key|access_?key(?:_id)?|private_?key|"
    r"credentials?)|(?:\w*_)?(?:hf|hub|auth|api|access|refresh|bearer|tracking|session|github|"
    r"gitlab|wandb)_?token|token|pwd)"
)

VARIABLE = re.compile(
    r".*(TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET\w*|API_?KEY|ACCESS_?KEY(_ID)?|PRIVATE_?KEY)S?",
    re.IGNORECASE,
)

IN_ADDRESS = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s\"\\<>?#]*@")

# One that lacks the %2F for a slash: no address, but it is what a person may have typed.
WITH_SLASHES = re.compile(
    r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://)[^\s:/@'\"]+:(?!\d+[/?#])[^\s'\"]+@(?=[\w\[])"
)

NAMED = re.compile(
    rf"(?i)(?P<before>(?<!\w){NAME}['\"]?[ \t]*[=:][ \t]*(?P<quote>['\"]?))"
    r"(?P<value>(?<=')[^'\n]+|(?<=\")[^\"\n]+|(?<!['\"])[^\s,&;'\"}\])]+)"
)

HEADER = re.compile(r"(?i)(?P<before>\b(?:bearer|basic)\s+)[A-Za-z0-9+/._~-]{8,}=*")

SHAPES = re.compile(  # of tokens that tell what they are
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|"
    r"sk-[\w-]{20,}|dapi[0-9a-f]{32}|AKIA[0-9A-Z]{16})"
)


def redact(text: str) -> str:
    """The text without credentials: those in addresses, named ones, and any that are known here.

    Those known are the secret variables of the environment and the passwords in addresses that
    stand there or on the command line.
    """
    for secret in known():
        text = text.replace(secret, HIDDEN)
    for pattern in (IN_ADDRESS, WITH_SLASHES):
        text = pattern.sub(rf"\g<before>{HIDDEN}@", text)
    text = NAMED.sub(_hide_named, text)
    text = HEADER.sub(rf"\g<before>{HIDDEN}", text)
    return SHAPES.sub(HIDDEN, text)


def redact_all(tree: Any) -> Any:
    """The same of every text in a tree; a value that has a secret's name is hidden as a whole."""
    if isinstance(tree, str):
        return redact(tree)
    if isinstance(tree, Mapping):
        return {
            key: HIDDEN
            if isinstance(value, str) and value and _is_secret(str(key))
            else redact_all(value)
            for key, value in tree.items()
        }
    if isinstance(tree, list | tuple):
        return [redact_all(value) for value in tree]
    return tree


def redact_yaml(text: str) -> str:
    """The same of a YAML file: to the letter as it was, where it has no secret."""
    tree = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    hidden = redact_all(tree)
    return text if hidden == tree else redact(OmegaConf.to_yaml(OmegaConf.create(hidden)))


class RedactingFormatter(logging.Formatter):
    """Log lines, and the tracebacks below them, without credentials and control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        return strip_control(redact(super().format(record)))


def without_hidden(address: str) -> str:
    """An address that was redacted, as one without credentials: those of the environment count."""
    return address.replace(f"://{HIDDEN}@", "://")


def known() -> tuple[str, ...]:
    """The secrets that this process was given, the longest first."""
    return _find_secrets(tuple(os.environ.items()), tuple(sys.argv))


@lru_cache(maxsize=1)  # hundreds of texts are redacted in a row
def _find_secrets(
    environment: tuple[tuple[str, str], ...], words: tuple[str, ...]
) -> tuple[str, ...]:
    found = {value for name, value in environment if VARIABLE.fullmatch(name)}
    for text in (*(value for _, value in environment), *words):
        if "://" in text:
            found |= set(passwords(text))
    long = (secret for secret in found if len(secret) >= LEAST)
    return tuple(sorted(long, key=len, reverse=True))


def passwords(text: str) -> Iterator[str]:
    """The passwords in a text's addresses, as they are written there and as they are meant."""
    for pattern in (IN_ADDRESS, WITH_SLASHES):
        for found in pattern.finditer(text):
            password = found[0].removeprefix(found["before"])[:-1].partition(":")[2]
            yield from {password, unquote(password)}


def _is_secret(key: str) -> bool:
    return re.fullmatch(NAME, key.rpartition(".")[2], re.IGNORECASE) is not None


def _hide_named(found: re.Match[str]) -> str:
    if found["value"] in ("null", "None", "true", "false", HIDDEN):
        return found[0]
    return f"{found['before']}{HIDDEN}"
