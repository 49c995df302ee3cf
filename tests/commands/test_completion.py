"""The tab key: what a word may become, and what bash gets of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmft.commands.completion import TRAINING, complete_word
from lmft.commands.verbs import VERBS

ROOT = Path(__file__).parents[2]

SCRIPT = """
eval "$(lmft --shell-completion install=bash)"
while IFS= read -r COMP_LINE; do
    COMP_POINT=${#COMP_LINE} COMP_TYPE=9 COMPREPLY=()
    _python_argcomplete lmft
    (IFS='|'; echo "${COMPREPLY[*]}")
done
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with runs, data, and a user's own config."""
    for name in ("runs/one/.hydra", "runs/two/.hydra", "runs/other", "data", "own/experiment"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data.txt").touch()
    (tmp_path / "own" / "experiment" / "mine.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="there is no bash")
def test_bash_completes_verbs_knobs_choices_runs_and_paths(place):
    lines = {
        "lmft ev": ["evaluate"],
        "lmft optimizer.l": ["optimizer.lr="],
        "lmft model=gp": ["gpt2", "gpt2_tiny"],  # of the word, bash replaces what follows the `=`
        "lmft evaluate run=": ["runs/one", "runs/two"],
        "lmft seed=1 --config-dir own experiment=m": ["mine"],
        "lmft -m seed=0,1 --config-dir ow": ["own/"],
        "lmft dataset.train=da": ["data/", "data.txt"],
        "lmft generate 'prompt=not closed": [""],
    }
    (place / "lmft").write_text(f'#!/bin/sh\nexec {sys.executable} -m lmft "$@"\n')
    (place / "lmft").chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{place}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", SCRIPT],
        input="\n".join([*lines, ""]), cwd=place, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    replies = [line.replace(" ", "").split("|") for line in done.stdout.splitlines()]
    assert dict(zip(lines, replies, strict=True)) == lines
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("verb", "words", "prefix", "offered"),
    [
        (None, [], "pro", ["profile"]),
        (None, ["seed=1"], "ev", "evaluation= evaluation.stride="),
        (None, [], "", "evaluate clean model= experiment= seed= run_root="),
        (None, [], "hydra/sw", ["hydra/sweeper="]),
        (None, [], "hydra/sweeper=lr_", ["hydra/sweeper=lr_grid", "hydra/sweeper=lr_search"]),
        (None, [], "optimizer._", "optimizer._target_="),
        (None, [], "model=gpt2,gpt2_", ["model=gpt2,gpt2_tiny"]),
        (None, [], "hardware.precision=f", ["hardware.precision=fp32", "hardware.precision=fp16"]),
        (None, [], "fresh=", ["fresh=true", "fresh=false"]),
        (None, [], "dataset.train=nowhere/", []),
        (None, [], "dataset.train=[d", ["dataset.train=[data/", "dataset.train=[data.txt"]),
        (None, [], "dataset.train=[a.txt,data.", ["dataset.train=[a.txt,data.txt"]),
        ("generate", [], "tok", ["tokens="]),
        ("verify", [], "", "resume batch model="),
        ("verify", ["resume"], "res", []),
        ("evaluate", [], "run=ru", ["run=runs/one", "run=runs/two"]),
        ("evaluate", [], "run=runs/o", ["run=runs/one"]),
        ("evaluate", [], "run=da", ["run=data/"]),
        ("compare", ["runs/one"], "", "runs/one runs/two out= tracker.uri="),
        ("compare", [], "evaluation.split=t", ["evaluation.split=test", "evaluation.split=train"]),
        ("compare", [], "mod", []),
        ("sync", [], "tr", "tracker= tracker.experiment_name= tracker.uri="),
        ("clean", [], "cache=", ["cache=true", "cache=false"]),
        ("runs", ["run_root=own"], "run", ["run_root="]),
        ("new", [], "", "experiment model= out="),
        ("new", ["experiment", "x"], "model=gpt2_", ["model=gpt2_tiny"]),
        ("doctor", [], "hardware=cu", ["hardware=cuda"]),
    ],
)
def test_a_word_becomes_what_the_verb_takes(verb, words, prefix, offered, place):
    found = list(complete_word(prefix, VERBS[verb] if verb else TRAINING, words))
    assert found == offered if isinstance(offered, list) else set(offered.split()) <= set(found)


def test_nothing_heavy_is_imported_for_it():
    code = """
import sys
import lmft.cli, lmft.commands.completion
print({"torch", "hydra", "omegaconf", "transformers", "numpy"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
