"""The tests that the documentation names exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROMISES = ROOT / "docs" / "promises.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`( \(soak\))?")


@cache
def find_tests(path):
    """The tests of a file, by name: whether each is run by `make soak` alone."""
    tree = ast.parse((ROOT / path).read_text())
    slow = any(ast.unparse(node) == "pytestmark = pytest.mark.soak" for node in tree.body)
    return {
        node.name: slow or "pytest.mark.soak" in map(ast.unparse, node.decorator_list)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_is_there(page):
    text = page.read_text()
    for path in re.findall(r"`(tests/[\w/]+\.py)\b", text):
        assert (ROOT / path).is_file(), path
    for path, name, marked in NAMED.findall(text):
        assert name in find_tests(path), f"{path} has no {name}"
        if page == PROMISES:
            assert find_tests(path)[name] == bool(marked), f"{name}: is it run by make soak alone?"


def test_every_promise_is_held_by_a_test():
    rows = [line for line in PROMISES.read_text().splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith("| promise |")]
    assert len(promises) > 50
    for row in promises:
        assert NAMED.search(row), row
