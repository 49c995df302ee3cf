"""Walk a config tree by the full names of its knobs."""

from collections.abc import Iterator, Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn {"model": {"name": "gpt2"}} into {"model.name": "gpt2"}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def walk(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a tree by its full name, branches too: of lists, knob[0]."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            name = f"{path}.{key}" if path else str(key)
            yield name, value
            yield from walk(value, name)
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield f"{path}[{number}]", value
            yield from walk(value, f"{path}[{number}]")
