"""The command, through its own entry; a few times as a process of its own."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lmft import cli
from tests.conftest import compose

ROOT = Path(__file__).parents[2]


QUICK = "trainer.max_steps=2 evaluation.max_blocks=2 model.vocab_size=300"

MISTAKES = {
    "trainer.epoch=3": "Did you mean 'trainer.epochs'",
    "model=gpt3": "choose bert_base",
    "model=3": "model has no choice '3'; choose bert_base",
    "evalute": "There is no verb 'evalute'",
    "trainer.epochs=abc": "trainer.epochs",
    "trainer.epochs=-1": "trainer.epochs must be a number above 0",
    "trainer.batch_size=0": "trainer.batch_size must be a whole number from 1 to",
    "trainer.schedule=square": "trainer.schedule",
    "hardware.precision=fp8": "hardware.precision",
    "hardware.micro_batch_size=0": "hardware.micro_batch_size",
    "hardware.device=cuda:7": "try hardware=cpu",
    "hardware.device=tpu": "choose auto",
    "dataset.block_size=4096": "set dataset.block_size=512 or less",
    "dataset.block_size=1": "dataset.block_size must be a whole number from 2 to",
    "dataset=text_files": "dataset.train has no value",
    "dataset=text_files dataset.train=nothing.txt": "'nothing.txt' is not there",
    "dataset.document=page": "dataset.document",
    "model=pretrained": "model.name has no value",
    "model=pretrained model.name=./nowhere": "there is no such folder",
    "model=gpt2": "openai-community/gpt2",
    "model=gpt2 model.tokenizer=corpus": "model.from_scratch=true",
    "model=bert_tiny": "sees ahead",
    "objective=mlm": "has no head",
    "objective=mlm objective.mask_fraction=2": "objective.mask_fraction",
    "model.config={n_layr:4}": "Did you mean 'n_layer'",
    "model.config={n_layer:many}": "model.config.n_layer",
    "model.vocab_size=3": "model.vocab_size",
    "model.dropout=2": "model.dropout",
    "optimizer.lr=-1": "optimizer.lr must be a number from 0",
    "seed=-1": "seed",
    "tracker._target_=os.system": "tracker._target_",
    "tracker.uri=ftp://nowhere": "tracker.uri",
}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The default experiment, small, its text tokenized once."""
    return f"{QUICK} cache_root={tmp_path_factory.mktemp('cache')}"


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(line, command, quick, tmp_path):
    code, _, complaint = command(f"{quick} {line}" if "=" in line else line)
    assert code == 2
    assert MISTAKES[line] in complaint
    assert complaint.startswith("lmft: ") and complaint.count("\n") == 1
    assert not list(tmp_path.glob("runs/*-*")) and not (tmp_path / "mlflow.db").exists()


def test_a_failing_run_says_why_and_keeps_the_traceback_in_its_log(command, quick, tmp_path):
    code, _, complaint = command(f"{quick} tracker=none optimizer.lr=1e30 trainer.epochs=9")
    assert code == 1
    assert "lower optimizer.lr" in complaint and "Traceback" not in complaint
    (log,) = tmp_path.glob("runs/*/run.log")
    assert "Traceback" in log.read_text()


def test_help_knows_every_group_and_choice(command):
    code, printed, _ = command("--help")
    assert code == 0
    for path in (ROOT / "conf").glob("*/*.yaml"):
        assert re.search(rf"^  {path.stem} ", printed, re.M) and f"{path.parent.name}=" in printed


CHOICES = [f"{p.parent.name}={p.stem}" for p in (ROOT / "conf").glob("*/*.yaml")]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_into_a_typed_config(choice):
    from lmft.config.build import read_config

    name = ["model.name=gpt2"] if choice == "model=pretrained" else []
    read_config(compose(choice, *name))


def commands_of(text):
    for block in re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "lmft" and "=" in "".join(words[1:]):
                yield words[1:]


def test_every_command_of_the_readme_composes():
    found = list(commands_of((ROOT / "README.md").read_text()))
    assert found
    for words in found:
        if words[0] in cli.VERBS:
            words = [word for word in words[1:] if not word.startswith(("run=", "prompt="))]
        if any("=" in word for word in words):
            compose(*(word.split(",")[0] for word in words if "=" in word))


def spawn(line, folder, **more):
    words = [sys.executable, "-m", "lmft", *shlex.split(line)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(words, cwd=folder, env=environment, text=True, **more)


def test_tab_completes_groups_and_knobs(tmp_path):
    environment = {**os.environ, "COMP_LINE": "lmft model=gpt", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "lmft", "--shell-completion", "query=bash"]
    found = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert {"model=gpt2", "model=gpt2_tiny"} <= set(found.stdout.split())


def test_the_command_leaves_its_result_where_it_was_told(command, quick, tmp_path):
    code, printed, complaint = command(f"{quick} tracker=none")
    assert (code, complaint) == (0, "")
    (result,) = tmp_path.glob("runs/*/result.json")
    assert json.loads(result.read_text())["steps"] == 2
    assert "validation, best" in printed


def test_torchs_library_is_loaded_beside_what_python_does():
    code = """
import sys, time
from pathlib import Path
from lmft.ahead import load_torch_ahead
load_torch_ahead()
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
from lmft.ahead import load_torch_ahead
atexit.register(lambda: print(threading.active_count(), "at the end"))
load_torch_ahead()
print(threading.active_count(), "meanwhile")
sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "2 meanwhile\n1 at the end\n")
