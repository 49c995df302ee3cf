"""Content hashes: SHA-256 of values and of files."""

import hashlib
import json
from pathlib import Path
from typing import Any


def digest(value: Any) -> str:
    """Return the SHA-256, in hex, of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_files(paths: list[Path]) -> str:
    """Return the SHA-256, in hex, of the files' contents in this order, without names and times."""
    return digest([digest_file(path) for path in paths])


def digest_file(path: Path) -> str:
    """Return the SHA-256, in hex, of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
