"""A run that is killed anywhere and started again ends with the same bits."""

import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

from lmft.storage.hub import content_digest
from lmft.storage.lock import run_lock
from lmft.tracker.run_log import Record, read_facts, read_points
from lmft.trainer.checkpoint import Checkpoints
from tests.helpers.mlflow import Store
from tests.helpers.processes import kill, start, wait_for, warm_up
from tests.helpers.runs import BUSY, MODELS, SPEEDS, read_result, repeatable_metrics, train_command

PRECISION = {"clm": "hardware.precision=bf16", "mlm": "hardware.precision=fp32"}


def outcome(folder, store):
    """What must not depend on how often a run was killed."""
    points, stored = repeatable_metrics(folder), store.metrics(folder)
    stored = {key: value for key, value in stored.items() if key[1] not in SPEEDS}
    assert stored == points, "the store and the folder differ"
    assert store.run_of(folder).info.status == "FINISHED"
    assert not (folder / "checkpoints").exists()
    return content_digest(str(folder / "checkpoint"), ""), points, read_result(folder)


def run_to_its_end(line, folder, log):
    process = start(line, folder, log)
    process.join(120)
    assert process.exitcode == 0, log.read_text()[-3000:]
    return next(path for path in folder.glob("runs/*") if (path / "result.json").exists())


def check_kills(line, tmp_path, kills, seed, empty_store=None):
    """Check that runs killed at random moments, `kills` times in all, end like one that was not.

    Each makes a store, and may be killed at it, unless there is an empty one to begin with.
    """
    generator, log = random.Random(seed), tmp_path / "log.txt"

    def new_folder():
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        if empty_store:
            shutil.copy(empty_store, folder)
        return folder

    warm_up()
    folder, started = new_folder(), time.monotonic()
    expected = outcome(run_to_its_end(line, folder, log), Store(folder))
    lasts = time.monotonic() - started
    while kills:
        folder = new_folder()
        ended = False
        while kills and not ended:
            process = start(line, folder, log)
            process.join(generator.uniform(0.1, 0.9 * lasts))
            ended = process.exitcode is not None
            kill(process)
            kills -= not ended
        assert outcome(run_to_its_end(line, folder, log), Store(folder)) == expected


@pytest.mark.parametrize("objective", ["clm", pytest.param("mlm", marks=pytest.mark.soak)])
def test_a_run_killed_at_random_moments_ends_as_if_nothing_had_happened(
    objective, corpus, tmp_path, empty_store
):
    kills = {"clm": 2, "mlm": 1}[objective]
    seed = 38  # the first moments are in the middle of the run, where there is something to lose
    line = train_command(corpus, objective, PRECISION[objective])
    check_kills(line, tmp_path, kills, seed, empty_store)


@pytest.mark.soak
def test_a_killed_run_with_an_adapter_ends_as_if_nothing_had_happened(
    corpus, stories, tmp_path, empty_store
):
    model = f"model=pretrained model.name={stories} adapter=lora adapter.rank=4 adapter.dropout=0.1"
    line = f"{train_command(corpus, 'clm')} {model} model.config=null"
    check_kills(line, tmp_path, kills=3, seed=38, empty_store=empty_store)


@pytest.mark.soak
@pytest.mark.parametrize(("objective", "kills"), [("clm", 12), ("mlm", 12), ("clm", 100)])
def test_however_often_it_is_killed(objective, kills, corpus, tmp_path):
    line = train_command(corpus, objective, PRECISION[objective])
    check_kills(line, tmp_path, kills, seed=kills)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_the_step_end_and_saves_a_checkpoint(number, corpus, tmp_path, store_at_hand):
    line = train_command(corpus, "clm", "trainer.checkpoint_every=null", "trainer.epochs=400")
    process = start(line, tmp_path)
    wait_for(lambda: [p for f in tmp_path.glob("runs/*-*") for p in read_points(f) if p.step > 9])
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 128 + number
    (folder,) = tmp_path.glob("runs/*-*")
    last = max(points.step for points in read_points(folder))
    assert Checkpoints(folder / "checkpoints").newest().progress["step"] == last
    assert Store(tmp_path).run_of(folder).info.status == "KILLED"


def test_a_finished_run_prints_its_result_at_once_and_fills_a_store(
    corpus, command, tmp_path, store_at_hand
):
    line = train_command(corpus, "clm", "trainer.max_steps=3")
    assert command(f"{line} tracker=none")[0] == 0
    (folder,) = tmp_path.glob("runs/*-*")
    (folder / "checkpoint" / "model.safetensors").unlink()  # which is not needed
    before = {path: path.read_bytes() for path in folder.rglob("*.json*")}
    for _ in range(2):
        code, printed, _ = command(line)
        assert code == 0 and "has finished already" in printed and "validation, best" in printed
    assert {path: path.read_bytes() for path in folder.rglob("*.json*")} == before
    outcome_points = Store(tmp_path).points(folder, "train/loss")
    assert list(outcome_points) == [1, 2, 3]
    assert Store(tmp_path).run_of(folder).info.status == "FINISHED"


def test_a_fresh_start_moves_the_old_run_aside(corpus, command, tmp_path, store_at_hand):
    line = train_command(corpus, "clm", "trainer.max_steps=3")
    for more in ("", "fresh=true", "fresh=true"):
        assert command(f"{line} {more}")[0] == 0
    (folder,) = (path for path in tmp_path.glob("runs/*-*") if "~" not in path.name)
    for number in (1, 2):
        old = folder.with_name(f"{folder.name}~{number}")
        assert (old / "result.json").exists()
        tags = Store(tmp_path).run_of(old).data.tags
        assert tags["superseded"] == "true" and read_facts(old)["tags"]["superseded"] == "true"
    assert "superseded" not in Store(tmp_path).run_of(folder).data.tags


def interrupting(log_metrics, at):
    """Return `log_metrics`, with a SIGTERM to this process after step `at`."""

    def log(record, values, step):
        log_metrics(record, values, step)
        if step == at:
            assert callable(signal.getsignal(signal.SIGTERM)), "it would end the tests"
            os.kill(os.getpid(), signal.SIGTERM)

    return log


def test_a_run_root_that_is_moved_whole_keeps_its_runs_in_mlflow(
    corpus, command, tmp_path, store_at_hand, monkeypatch
):
    done = train_command(corpus, "clm", "trainer.max_steps=3")
    begun = train_command(corpus, "clm", "trainer.checkpoint_every=null")
    assert command(done)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(Record, "log_metrics", interrupting(Record.log_metrics, at=8))
        assert command(begun)[0] == 128 + signal.SIGTERM
    store = Store(tmp_path)
    ids = {path.name: store.run_of(path).info.run_id for path in tmp_path.glob("runs/*-*")}
    assert len(ids) == 2
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    code, printed, _ = command(f"{done} run_root=elsewhere")
    assert code == 0 and "has finished already" in printed
    code, printed, _ = command(f"{begun} run_root=elsewhere")
    assert code == 0 and "Resuming from step 8." in printed
    for name, run_id in ids.items():
        folder = tmp_path / "elsewhere" / name
        outcome(folder, store)  # each point once, and FINISHED
        run = store.run_of(folder)
        assert run.info.run_id == run_id
        query = f"source_run_id = '{run_id}'"
        (model,) = store.client.search_logged_models([run.info.experiment_id], query)
        assert Path(model.tags["lmft.checkpoint"]) == folder / "checkpoint"
    assert len(store.client.search_runs([run.info.experiment_id])) == 2
    assert not (tmp_path / "runs").exists()


def test_a_running_run_is_not_started_twice(corpus, command, tmp_path):
    line = train_command(corpus, "clm", "trainer.max_steps=3", "tracker=none")
    assert command(line)[0] == 0
    (folder,) = tmp_path.glob("runs/*-*")
    with run_lock(folder):
        code, _, complaint = command(f"{line} fresh=true")
        assert code == 3 and f"in process {os.getpid()} on" in complaint
        assert complaint.count("\n") == 1


def test_the_precision_of_the_first_start_is_kept(corpus, command, tmp_path, monkeypatch):
    line = train_command(corpus, "clm", "trainer.max_steps=3", "tracker=none")
    monkeypatch.setattr("lmft.hardware.device.has_bf16", lambda device: True)
    monkeypatch.setattr("lmft.trainer.train.conclude", lambda *args: 1 / 0)
    assert command(line)[0] == 1
    (folder,) = tmp_path.glob("runs/*-*")
    assert read_facts(folder)["precision"] == "bf16"
    monkeypatch.undo()
    monkeypatch.setattr("lmft.hardware.device.has_bf16", lambda device: False)
    code, _, complaint = command(f"{line} hardware.micro_batch_size=2")
    assert code == 2 and "started in bf16" in complaint and "fresh=true" in complaint


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(corpus, fit, capsys):
    overrides = [*corpus, *BUSY[:-3], *MODELS["clm"]]  # a checkpoint after every 4 steps
    folder = fit(*overrides, prune=lambda step, folder: step == 12)
    newest = folder / "checkpoints" / "step-12" / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert fit(*overrides) == folder
    assert "Resuming from step 8." in capsys.readouterr().out
    assert read_result(folder)["steps"] == 15
