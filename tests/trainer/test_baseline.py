"""The loss before step 1: scored once for the same weights, and the same to the last digit."""

import json
import threading
import time

import pytest

from lmft.errors import Interrupted
from lmft.storage.cache import build_once
from tests.helpers.runs import repeatable_metrics

STEPS = ("trainer.max_steps=1", "dataset.block_size=16", "trainer.batch_size=4")
KNOWN = "was already scored"


@pytest.fixture
def launch(fit, corpus, tmp_path):
    """Train for a step; returns the folder, and whether the loss before it was scored."""

    def launch(*overrides):
        folder = fit(*corpus, "model=gpt2_tiny", *STEPS, *overrides)
        return folder, KNOWN not in (folder / "run.log").read_text()

    launch.cache = tmp_path / "cache" / "baselines"
    return launch


def baseline(folder):
    return json.loads((folder / "result.json").read_text())["baseline"]


def test_jobs_that_begin_alike_score_once_and_log_the_same(launch, tmp_path):
    first, scored = launch("optimizer.lr=1e-3")
    assert scored
    second, scored = launch("optimizer.lr=1e-2")
    assert not scored and baseline(second) == baseline(first)
    again, scored = launch("optimizer.lr=1e-3", f"run_root={tmp_path / 'others'}")
    assert not scored and again != first
    assert repeatable_metrics(again) == repeatable_metrics(first)
    sums = [next(folder.glob("sums-*.parquet")).read_bytes() for folder in (first, again)]
    assert sums[0] == sums[1]


def test_what_may_change_a_digit_is_scored_again(launch):
    launch()
    for other in ("seed=1", "hardware.precision=bf16", "evaluation.context=8"):
        assert launch(other, "optimizer.lr=1e-2")[1], other
    assert len([path for path in launch.cache.iterdir() if path.is_dir()]) == 4


def test_the_same_trained_weights_are_known_in_another_folder(launch, tmp_path):
    folder, _ = launch()
    trained = folder / "checkpoint"
    trained.rename(tmp_path / "weights")
    pretrained = ["model=pretrained", "optimizer.lr=1e-3"]
    assert launch(*pretrained, f"model.name={tmp_path / 'weights'}")[1]
    (tmp_path / "weights").rename(tmp_path / "moved")
    assert not launch(*pretrained, f"model.name={tmp_path / 'moved'}", "seed=1")[1]


def test_a_damaged_loss_is_scored_again_with_a_sentence(launch, caplog):
    first, _ = launch()
    (path,) = launch.cache.glob("*/loss.json")
    path.write_text(path.read_text().replace("1", "2"))
    second, scored = launch("optimizer.lr=1e-2")
    assert scored and baseline(second) == baseline(first)
    assert "failed its checksum; rebuilding" in caplog.text


def test_a_job_that_waits_for_another_can_be_stopped(tmp_path):
    folder, started, end = tmp_path / "slow", threading.Event(), threading.Event()

    def fill(temporary):
        started.set()
        end.wait(30)

    def stop():
        raise Interrupted(2)

    (thread := threading.Thread(target=build_once, args=(folder, fill))).start()
    assert started.wait(30)
    begun = time.monotonic()
    with pytest.raises(Interrupted):
        build_once(folder, fill, stop)
    assert time.monotonic() - begun < 10
    end.set()
    thread.join()
