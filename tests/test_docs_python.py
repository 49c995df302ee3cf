"""The examples of docs/python.md run, in order, and print what the page shows."""

import ast
import doctest
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
BLOCK = re.compile(r"^```(python|text)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"\b[0-9a-f]{10}\b|-?\d[\d,.]*(e[+-]\d+)?")  # a run key, or a number
CHECK = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def execute(code, names):
    """What a notebook shows of a cell: the value of its last line, or else what it printed."""
    tree, printed, value = ast.parse(code), StringIO(), None
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with redirect_stdout(printed):
        exec(compile(tree, PAGE.name, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), PAGE.name, "eval"), names)
    return printed.getvalue() if value is None else repr(value)


def is_shown(shown, printed):
    """Whether a page shows what was printed, up to numbers, spaces and what `...` leaves out."""
    return doctest.OutputChecker().check_output(
        NUMBER.sub("N", shown), NUMBER.sub("N", printed), CHECK
    )


def test_the_examples_run_and_print_what_the_page_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    names, printed, compared = {"__name__": "page"}, None, 0
    for kind, mark, text in BLOCK.findall(PAGE.read_text()):
        if kind == "python" and mark == "":
            printed = execute(text, names)
        elif kind == "python":
            assert mark == " no test" and ast.parse(text)
            printed = None
        elif printed is not None and mark != " varies":
            assert is_shown(text, printed), f"The page shows\n{text}\nbut printed was\n{printed}"
            compared += 1
    assert compared > 14


def test_an_output_that_the_page_does_not_show_is_noticed():
    assert is_shown("loss 1.5\n...\nend\n", "loss 2.25\nmore\nand more\nend\n")
    assert not is_shown("loss 1.5\n", "perplexity 1.5\n")
    assert not is_shown("True\n", "False")
