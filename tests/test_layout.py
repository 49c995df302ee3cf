"""The layout: where a module, its choices in conf/ and its tests are, and what may import what."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LMFT = ROOT / "lmft"
PACKAGES = sorted(path.parent for path in LMFT.rglob("__init__.py"))
MODULES = sorted(path for path in LMFT.rglob("*.py") if path.name != "__init__.py")
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
GROUPS = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir())
NO_CODE = {"experiment", "hydra"}  # groups of conf/ that only set knobs of others, or of Hydra

# A name stands for one thing, but for the same role in packages beside each other.
REPEATED = {
    "train": {"commands.train", "trainer.train"},
    "compare": {"analysis.compare", "commands.compare"},  # a verb and what it does
    "plan": {"analysis.plan", "commands.plan"},
    "doctor": {"analysis.doctor", "commands.doctor"},
    "profiling": {"analysis.profiling", "commands.profiling"},
    "verify": {"analysis.verify", "commands.verify"},
    "runs": {"runs", "commands.runs"},
    "evaluate": {"commands.evaluate", "trainer.evaluate"},
    "show": {"analysis.compare.show", "dataset.overview.show"},
    "plots": {"analysis.compare.plots", "output.plots", "sweep.plots"},
    "report": {"analysis.compare.report", "analysis.plan.report", "sweep.report"},
}


def dotted(path):
    """The name of a module or package below lmft."""
    return ".".join(path.relative_to(LMFT).with_suffix("").parts)


def test_no_file_has_more_than_260_lines():
    lengths = {dotted(path): len(path.read_text().splitlines()) for path in MODULES}
    assert not {name: lines for name, lines in lengths.items() if lines > 260}


def test_few_files_are_at_the_top_of_lmft():
    assert len(list(LMFT.glob("*.py"))) <= 10


@pytest.mark.parametrize("package", PACKAGES[1:], ids=dotted)
def test_every_package_has_a_docstring_of_two_lines(package):
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
    assert text and len([line for line in text.splitlines() if line]) == 2


@pytest.mark.parametrize("group", [group for group in GROUPS if group not in NO_CODE])
def test_every_group_of_conf_has_its_code_and_its_tests(group):
    assert (LMFT / f"{group}.py").is_file() or (LMFT / group).is_dir()
    assert list((ROOT / "tests" / group).glob("test_*.py"))


def test_every_package_has_its_tests():
    for package in LMFT.glob("*/__init__.py"):
        assert list((ROOT / "tests" / package.parent.name).glob("test_*.py")), package.parent.name


def test_no_module_has_a_name_of_the_standard_library():
    named = {path: path.stem for path in [*MODULES, *PACKAGES[1:]]}
    assert not [path for path, name in named.items() if name in sys.stdlib_module_names]


def test_a_name_repeats_only_for_the_same_role():
    by_name = defaultdict(set)
    for path in [*MODULES, *PACKAGES[1:]]:
        by_name[path.stem].add(dotted(path))
    assert {name: found for name, found in by_name.items() if len(found) > 1} == REPEATED


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_no_test_module_imports_another(path):
    """Shared code is in tests/helpers/, fixtures in tests/conftest.py."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    imported = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    imported |= {
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    }
    ours = {name for name in imported if name.partition(".")[0] == "tests"}
    assert all(name.startswith("tests.helpers.") for name in ours)


def test_modules_import_only_what_is_below_them():
    # In a process of its own, since import-linter disables the loggers of this one.
    command = [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"]
    linted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout
