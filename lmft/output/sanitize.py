"""Make text safe to print and store: no secrets, no terminal control characters.

Processes use the real values; only text that is written to a folder, a tracking store, a log or a
terminal is sanitized.
"""

import logging
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

JOINERS = "\u200c\u200d\u00ad"  # zero-width (non-)joiner of letters and emoji; soft hyphen
REPLACEMENT = "\ufffd"


def strip_control(text: str, lines: bool = True) -> str:
    """Replace terminal control and bidirectional characters in untrusted text.

    Args:
        text: from a corpus, a model, or the name of a file.
        lines: keep newlines and tabs; otherwise each becomes a space.
    """
    if text.isascii() and text.isprintable():
        return text
    kept = "".join(c if _is_safe(c) else REPLACEMENT for c in text)
    return kept if lines else kept.replace("\n", " ").replace("\t", " ")


def _is_safe(character: str) -> bool:
    if character in "\n\t" or character in JOINERS:
        return True
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


HIDDEN = "HIDDEN"  # replaces secrets; needs no quotes in YAML, shells or Hydra
MIN_LENGTH = 6  # characters; shorter secrets could be ordinary words, so they are not searched for

# Names of secret values; eos_token and other special tokens are not among them.
SECRET_NAME = (
    r"(?:\w*(?:password|passwd|passphrase|secret|api_?key|access_?key(?:_id)?|private_?key|"
    r"credentials?)|(?:\w*_)?(?:hf|hub|auth|api|access|refresh|bearer|tracking|session|github|"
    r"gitlab|wandb)_?token|token|pwd)"
)
SECRET_VARIABLE = re.compile(  # names of environment variables
    r".*(TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET\w*|API_?KEY|ACCESS_?KEY(_ID)?|PRIVATE_?KEY)S?",
    re.IGNORECASE,
)
URL_USERINFO = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s\"\\<>?#]*@")

# A password with an unescaped slash makes the URL invalid, but users type it.
URL_USERINFO_WITH_SLASH = re.compile(
    r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://)[^\s:/@'\"]+:(?!\d+[/?#])[^\s'\"]+@(?=[\w\[])"
)
NAMED_SECRET = re.compile(
    rf"(?i)(?P<before>(?<!\w){SECRET_NAME}['\"]?[ \t]*[=:][ \t]*(?P<quote>['\"]?))"
    r"(?P<value>(?<=')[^'\n]+|(?<=\")[^\"\n]+|(?<!['\"])[^\s,&;'\"}\])]+)"
)
AUTHORIZATION = re.compile(r"(?i)(?P<before>\b(?:bearer|basic)\s+)[A-Za-z0-9+/._~-]{8,}=*")
TOKEN_FORMATS = re.compile(  # of Hugging Face, GitHub, GitLab, OpenAI, Databricks and AWS
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|"
    r"sk-[\w-]{20,}|dapi[0-9a-f]{32}|AKIA[0-9A-Z]{16})"
)


def redact(text: str) -> str:
    """Replace credentials: in URLs, after secret names, in known formats, and known secrets.

    Known secrets are secret environment variables, and passwords in URLs in the environment or on
    the command line.
    """
    for secret in known_secrets():
        text = text.replace(secret, HIDDEN)
    for pattern in (URL_USERINFO, URL_USERINFO_WITH_SLASH):
        text = pattern.sub(rf"\g<before>{HIDDEN}@", text)
    text = NAMED_SECRET.sub(_hide_value, text)
    text = AUTHORIZATION.sub(rf"\g<before>{HIDDEN}", text)
    return TOKEN_FORMATS.sub(HIDDEN, text)


def redact_all(tree: Any) -> Any:
    """Redact every string in a tree of mappings and lists; hide values of secret names entirely."""
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
    """Redact the text of a YAML file; return it unchanged if it has no secret."""
    from omegaconf import OmegaConf  # takes half of the time of `lmft --help`

    tree = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    redacted = redact_all(tree)
    return text if redacted == tree else redact(OmegaConf.to_yaml(OmegaConf.create(redacted)))


class RedactingFormatter(logging.Formatter):
    """A log formatter that removes credentials and control characters, also from tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the sanitized text of a record."""
        return strip_control(redact(super().format(record)))


def remove_hidden_userinfo(url: str) -> str:
    """Remove `HIDDEN@` from a redacted URL, so that credentials come from the environment."""
    return url.replace(f"://{HIDDEN}@", "://")


def known_secrets() -> tuple[str, ...]:
    """Return the secrets in the environment and in commands, the longest first."""
    return _find_secrets(tuple(os.environ.items()), (*sys.argv, *sorted(_commands)))


_commands: set[str] = set()  # words with URLs, of commands that were not this process's own


def remember_secrets(words: Iterable[str]) -> None:
    """Redact from now on the passwords in URLs of these words, as those of the command line."""
    _commands.update(word for word in words if any(passwords_in_urls(word)))


@lru_cache(maxsize=1)  # called for hundreds of texts with the same environment
def _find_secrets(
    environment: tuple[tuple[str, str], ...], arguments: tuple[str, ...]
) -> tuple[str, ...]:
    secrets = {value for name, value in environment if SECRET_VARIABLE.fullmatch(name)}
    for text in (*(value for _, value in environment), *arguments):
        if "://" in text:
            secrets |= set(passwords_in_urls(text))
    long_enough = (secret for secret in secrets if len(secret) >= MIN_LENGTH)
    return tuple(sorted(long_enough, key=len, reverse=True))


def passwords_in_urls(text: str) -> Iterator[str]:
    """Yield each password in the URLs of a text, as written and percent-decoded."""
    for pattern in (URL_USERINFO, URL_USERINFO_WITH_SLASH):
        for match in pattern.finditer(text):
            password = match[0].removeprefix(match["before"])[:-1].partition(":")[2]
            yield from {password, unquote(password)}


def _is_secret(key: str) -> bool:
    return re.fullmatch(SECRET_NAME, key.rpartition(".")[2], re.IGNORECASE) is not None


def _hide_value(match: re.Match[str]) -> str:
    if match["value"] in ("null", "None", "true", "false", HIDDEN):
        return match[0]
    return f"{match['before']}{HIDDEN}"
