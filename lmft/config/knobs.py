"""Walk a config tree by the full names of its knobs."""

from collections.abc import Iterator, Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn {"model": {"name": "gpt2"}} into {"model.name": "gpt2"}; lists and empty dicts stay."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def walk(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every node of a tree by its full name, inner ones too; items of lists as knob[0]."""
    if isinstance(tree, dict):
        children = ((f"{path}.{key}" if path else str(key), value) for key, value in tree.items())
    elif isinstance(tree, list):
        children = ((f"{path}[{number}]", value) for number, value in enumerate(tree))
    else:
        return
    for name, value in children:
        yield name, value
        yield from walk(value, name)


def is_unused(name: str, value: Any) -> bool:
    """Return whether a knob is one of `adapter` without a value, as all are without an adapter."""
    return value is None and name.startswith("adapter.")
