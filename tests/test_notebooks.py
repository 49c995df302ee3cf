"""The notebooks of examples/: their cells run, their outputs are kept and name no machine."""

import os
import re
import shutil
import socket

import nbformat
import pytest
from huggingface_hub import constants
from nbconvert.preprocessors import ExecutePreprocessor

from tests.helpers.drive import mount
from tests.helpers.mlflow import Store
from tests.helpers.processes import ROOT, spawn, wait_for
from tests.helpers.runs import read_metrics, read_result, repeatable_metrics, train_command

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
MACHINE = re.compile(r"/(tmp|work|root|home|Users|mnt)\b")
BYTES = 150_000  # of a notebook with its outputs


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home folder, with the cache of tokenizers and tokens that the notebooks share."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def machine(home, tmp_path, monkeypatch, store_at_hand):
    """The working directory of a notebook on a machine without a login or a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    return tmp_path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_run(path, machine):
    names = {"__name__": path.stem}
    for cell in code_cells(path):
        exec(compile(cell.source, path.name, "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            assert names["size"] == "tiny"
            names["steps"] = 1
    assert {run.values["trainer"]["max_steps"] for run in names.values() if is_run(run)} == {1}


def is_run(value):
    return type(value).__name__ == "Run"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_outputs_are_those_of_all_cells_in_order_and_name_no_machine(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [str(output) for cell in cells for output in cell.outputs]
    assert len(outputs) > 10 and not any("'error'" in output for output in outputs)
    text = path.read_text()
    assert len(text) < BYTES and MACHINE.search(text) is None
    assert socket.gethostname() not in text


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # theirs
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_kernel_executes_it(path, machine):
    executor = ExecutePreprocessor(timeout=600, kernel_name="python3")
    executor.preprocess(nbformat.read(path, 4), {"metadata": {"path": str(machine)}})


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_run_on_a_drive_outlives_its_machine(tmp_path, corpus, fit, monkeypatch):
    """Without locks, with slow renames; the machine is lost with its store, and once more."""
    local, kept = tmp_path / "local", tmp_path / "drive"
    local.mkdir()
    kept.mkdir()
    for name, value in mount(kept, milliseconds=300).items():
        monkeypatch.setenv(name, value)
    line = train_command(corpus, "clm", f"run_root={kept / 'runs'}", "hardware.precision=fp32")
    process = spawn(line, local)
    wait_for(lambda: list(kept.glob("runs/*/checkpoints/step-4")), 120)
    process.kill()
    process.wait()
    (folder,) = kept.glob("runs/*-*")
    assert not (folder / "result.json").exists()
    for _ in ("resumes", "has finished"):
        shutil.rmtree(local)
        local.mkdir()
        assert spawn(line, local).wait() == 0
        store = Store(local)
        assert store.metrics(folder) == read_metrics(folder)
        assert store.run_of(folder).info.status == "FINISHED"
    for name in ("LD_PRELOAD", "DRIVE", "DRIVE_MS"):
        monkeypatch.delenv(name)
    straight = [word for word in line.split() if not word.startswith(("run_root", "cache_root"))]
    whole = fit(*straight)
    assert read_result(folder) == read_result(whole)
    assert repeatable_metrics(folder) == repeatable_metrics(whole)
    assert os.listdir(kept / "runs" / ".locks")
