"""Names that follow from content: digests, the key of a run, and the full names of knobs."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Raised by every commit that changes losses, so that older runs are not taken for the same ones.
NUMERICS = 6


def digest(value: Any) -> str:
    """SHA-256, in hex, of `value` written as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_files(paths: list[Path]) -> str:
    """SHA-256, in hex, of the files' contents in the order given; names and times do not count."""
    hashes = []
    for path in paths:
        with path.open("rb") as file:
            hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digest(hashes)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn {"model": {"name": "gpt2"}} into {"model.name": "gpt2"}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
