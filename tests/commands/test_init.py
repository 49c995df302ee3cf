"""`lmft init`: a project of one's own, whose test holds; it trains in test_projects_page.py."""

import importlib.util
from pathlib import Path

import pytest

import lmft
from lmft.errors import UserError

FILES = {
    ".gitignore", "README.md", "conf/dataset/notes.yaml", "conf/experiment/first.yaml",
    "data/train.txt", "data/validation.txt", "tests/test_experiments.py",
}  # fmt: skip


@pytest.fixture
def project(command, tmp_path):
    """A project in a folder of its own."""
    code, printed, complaint = command("init 'my project'")
    assert (code, complaint) == (0, "")
    assert printed.endswith("cd 'my project'\nlmft --config-dir conf experiment=first\n")
    return tmp_path / "my project"


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_its_test_composes_each_experiment_and_finds_a_wrong_one(project):
    assert files_of(project) == FILES
    path = project / "tests" / "test_experiments.py"
    (project / "conf" / "experiment" / "wrong.yaml").write_text(
        "# @package _global_\ntrainer: {epoch: 3}\n"
    )
    spec = importlib.util.spec_from_file_location("of_project", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.EXPERIMENTS == ["first", "wrong"]
    module.test_the_experiment_composes("first")
    with pytest.raises(UserError, match="'trainer.epoch'.*Did you mean 'trainer.epochs'"):
        module.test_the_experiment_composes("wrong")


def test_nothing_is_written_where_one_of_its_files_is(command, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.txt").write_text("mine\n")
    code, _, complaint = command("init")
    assert code == 2 and "data/train.txt exists; name another folder" in complaint
    assert files_of(tmp_path) == {"data/train.txt"}


def test_compose_takes_a_folder_from_where_python_is(project, monkeypatch):
    monkeypatch.chdir(project)
    config = lmft.compose("--config-dir=conf", "seed=3", experiment="first")
    assert (config.seed, config.dataset.name, config.trainer.epochs) == (3, "notes", 10)
    with pytest.raises(UserError, match="'--config-dir=cnf' names no folder"):
        lmft.compose("--config-dir=cnf")
