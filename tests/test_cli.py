"""The `lmft` command: choices and exit codes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lmft import cli
from lmft.errors import Interrupted
from lmft.runs.run import Run
from tests.helpers.runs import compose

ROOT = Path(__file__).parents[1]


QUICK = "trainer.max_steps=2 evaluation.max_blocks=2 model.vocab_size=300"


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The default experiment, small, its text tokenized once."""
    return f"{QUICK} cache_root={tmp_path_factory.mktemp('cache')}"


def test_a_failing_run_prints_its_reason_and_logs_the_traceback(command, quick, tmp_path):
    code, _, complaint = command(f"{quick} tracker=none optimizer.lr=1e30 trainer.epochs=9")
    assert code == 1
    assert "lower optimizer.lr" in complaint and "Traceback" not in complaint
    (log,) = tmp_path.glob("runs/*/run.log")
    assert "Traceback" in log.read_text()


CHOICES = [f"{p.parent.name}={p.stem}" for p in (ROOT / "conf").glob("*/[!_]*.yaml")]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_into_a_typed_config(choice):
    name = ["model.name=gpt2"] if choice == "model=pretrained" else []
    _ = Run(compose(choice, *name)).config


def test_a_run_writes_its_result_and_prints_it(command, quick, tmp_path):
    code, printed, complaint = command(f"{quick} tracker=none")
    assert (code, complaint) == (0, "")
    (result,) = tmp_path.glob("runs/*/result.json")
    assert json.loads(result.read_text())["steps"] == 2
    assert "validation, best" in printed


def test_a_signal_while_the_line_is_parsed_is_no_traceback(command, monkeypatch):
    def interrupted(words):
        raise Interrupted(signal.SIGHUP)

    monkeypatch.setattr(cli, "parse_line", interrupted)
    assert command("runs") == (129, "", "lmft: stopped.\n")


def test_torchs_library_is_loaded_beside_what_python_does():
    code = """
import sys, time
from pathlib import Path
from lmft.commands.preload import preload_torch
preload_torch()
assert "torch" not in sys.modules
while "libtorch_cpu.so" not in Path("/proc/self/maps").read_text():
    time.sleep(0.01)
import torch
print(torch.ones(2, 2) @ torch.ones(2, 2))
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0 and "[2., 2.]" in done.stdout, done.stderr


def test_nothing_is_torn_down_before_the_library_is_loaded():
    code = """
import atexit, sys, threading
from lmft.commands.preload import preload_torch
atexit.register(lambda: print(threading.active_count(), "at the end"))
preload_torch()
print(threading.active_count(), "meanwhile")
sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "2 meanwhile\n1 at the end\n")


@pytest.mark.parametrize("verb", ["", "runs"])
def test_a_deleted_current_directory_is_named(verb, tmp_path):
    words = f"mkdir gone && cd gone && rmdir ../gone && exec {sys.executable} -m lmft {verb}"
    found = {"PYTHONPATH": str(ROOT)}  # not from the folder that is gone
    done = subprocess.run(
        words, shell=True, cwd=tmp_path, capture_output=True, text=True, env=os.environ | found
    )
    assert done.returncode == 1
    assert done.stderr.startswith("lmft: The current directory is gone; change to")
