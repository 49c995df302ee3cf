"""`lmft verify`: promises are proved for one's own run, or reported as broken."""

import re
import shlex

import numpy as np
import pytest

from lmft.analysis.verify.diff import compare_folders, compare_with_store
from lmft.analysis.verify.micro_batches import choose_sizes, relative_difference

CACHE = "cache_root=cache"  # of the test's own folder
TINY = [
    "dataset.block_size=16", "trainer.batch_size=4", "hardware=cpu", "hardware.precision=fp32",
    "model.config={n_layer:1,n_embd:32,n_head:2}", "optimizer.lr=1e-2",
]  # fmt: skip


@pytest.mark.soak  # four processes, each with imports of its own
def test_verify_proves_that_a_killed_run_resumes_bit_for_bit(corpus, command, tmp_path):
    here = [word.replace(f"{tmp_path}/", "") for word in corpus]  # paths of the working directory
    line = shlex.join([*TINY, *here, CACHE, "trainer.max_steps=8", "trainer.evaluate_every=3"])
    code, printed, complaint = command(f"verify resume {line} run_root=elsewhere fresh=true")
    assert (code, complaint) == (0, "")
    rows = re.findall(r"^(?:checkpoint|result|metrics|MLflow).* identical$", printed, re.M)
    assert len(rows) == 5
    reached, resumed = re.search(
        r"Identical: interrupted at step (\d) of 8 and resumed from step (\d), the run", printed
    ).groups()
    assert 8 >= int(reached) >= 4 and 2 <= int(resumed) <= int(reached)
    assert not (tmp_path / "elsewhere").exists() and not (tmp_path / "mlflow.db").exists()


def test_the_first_difference_between_two_runs_is_reported_with_its_step(corpus, fit, store):
    whole, broken = (
        fit(*TINY, *corpus, *store.overrides, "trainer.max_steps=3", f"trainer.warmup_steps={n}")
        for n in (0, 1)
    )
    assert not any(finding.difference for finding in compare_folders(whole, whole))
    files, result, metrics = compare_folders(whole, broken)
    assert files.difference.startswith("model.safetensors: ")
    assert re.match(r"validation\.loss: \S+ straight, \S+ interrupted; ", result.difference)
    # Up to the first update the runs are one, but for the learning rate of the first step.
    told = r"train/learning_rate at step 1: 0.01 straight, 0.005 interrupted; \d+ of \d+ points .*"
    assert re.fullmatch(told, metrics.difference)
    with (broken / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "time": 0, "metrics": {"train/loss": 1.5}}\n')
    assert compare_with_store("straight", whole, store.uri).difference is None
    twice = compare_with_store("interrupted", broken, store.uri).difference
    told = r"train/loss at step 3: \S+ and 1.5 folder, \S+ MLflow; 1 of \d+ points differ"
    assert re.fullmatch(told, twice)


@pytest.mark.parametrize("objective", ["clm", "mlm model=bert_tiny"])
def test_micro_batches_of_every_size_are_proved_to_give_the_same_steps(corpus, command, objective):
    tiny = [word for word in TINY if "n_embd" not in word]
    line = shlex.join([*tiny, *corpus, CACHE])
    code, printed, complaint = command(f"verify batch {line} objective={objective}")
    assert (code, complaint) == (0, "")
    assert re.findall(r"^(\d) +\S+e-\d+ +\S+e-\d+$", printed, re.M) == ["2", "3", "4"]
    assert "Equal to rounding: 5 steps" in printed and "bound for fp32 is 1e-04" in printed


def test_steps_that_magnify_rounding_are_reported(corpus, command):
    line = shlex.join([*TINY, *corpus, CACHE, "optimizer.lr=3", "trainer.max_steps=12"])
    code, printed, complaint = command(f"verify batch {line}")
    assert code == 1 and "Equal" not in printed
    assert re.search(r"micro-batches of 1 and of 2 differ from step \d+ on: the ", complaint)


def test_the_sizes_are_powers_of_two_one_that_does_not_divide_and_the_whole():
    assert choose_sizes(8) == [1, 2, 3, 4, 8]
    assert choose_sizes(6) == [1, 2, 4, 6]
    assert choose_sizes(2) == [1, 2]


def test_a_relative_difference_is_of_the_expected_size():
    found = relative_difference(np.array([1.0, 0.0, 3.0]), np.array([2.0, 0.0, 0.0]))
    assert found[:2].tolist() == [0.5, 0.0] and found[2] > 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "run lmft verify resume"),
        ("resume -m seed=0,1", "Unrecognized arguments: -m/--multirun; see lmft verify --help."),
        ("batch seed", "'seed' is not KNOB=VALUE"),
        ("batch trainer.batch_size=1", "set it to 2 or more"),
        ("batch dataset.train=null", "dataset.train has no value"),
        ("resume trainer.max_step=3", "Did you mean 'trainer.max_steps'?"),
    ],
)
def test_mistakes_are_reported_in_one_sentence(line, told, command, tmp_path):
    code, printed, complaint = command(f"verify {line}")
    assert code == 2 and told in complaint
    assert complaint.startswith("lmft: ") and complaint.count("\n") == 1
