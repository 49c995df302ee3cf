"""Sweeps: each job runs once, whatever happens; there is one parent; nothing is left running."""

import json
import os
import re
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lmft.errors import UserError
from lmft.runs.find_run import find_folder
from lmft.runs.run import Run
from lmft.sweep.callback import common_knobs, swept_names
from lmft.sweep.records import (
    JobRecord,
    forget_unstarted,
    number_jobs,
    pick_values,
    read_jobs,
    shorten_knobs,
    write_record,
)
from lmft.tracker.run_log import read_points
from tests.helpers.mlflow import Store
from tests.helpers.processes import kill, spawn, start, wait_for, warm_up
from tests.helpers.runs import compose, read_metrics, train_command

GRID = "-m optimizer.lr=1e-2,1e-3,1e20 trainer.epochs=1"  # the last of the three jobs fails


def check_grid(folder):
    """Check that each job of the grid has finished once, but for the one that fails."""
    (parent,), children = Store(folder).sweeps()
    assert parent.info.status == "FAILED"
    assert sorted(child.info.status for child in children) == ["FAILED", "FINISHED", "FINISHED"]
    (failed,) = (child for child in children if child.info.status == "FAILED")
    assert failed.info.run_name == "lr=1e20"
    assert "lower optimizer.lr" in failed.data.tags["reason"]
    for child in children:
        run = Path(child.data.tags["lmft.folder"])
        read_metrics(run)  # each once
        Store(folder).points(run, "train/loss")  # each step once
    assert len(list(folder.glob("runs/*/result.json"))) == 2


def test_a_grid_killed_as_a_whole_resumes_and_runs_each_job_once(corpus, tmp_path, store_at_hand):
    warm_up()
    line, log = train_command(corpus, "clm") + f" {GRID}", tmp_path / "log.txt"
    process = start(line, tmp_path, log)
    wait_for(lambda: len(list(tmp_path.glob("runs/*/result.json"))) >= 1)
    kill(process)
    process = start(line, tmp_path, log)
    process.join(120)
    assert process.exitcode == 1, log.read_text()[-2000:]
    check_grid(tmp_path)


def test_a_finished_sweep_runs_only_new_values_under_the_same_parent(
    corpus, command, tmp_path, store_at_hand
):
    words = ("trainer.max_steps=2", "tracker.register=swept")
    line = train_command(corpus, "clm", *words) + " -m seed=0,1"
    assert command(line)[0] == 0
    results = {path: path.read_bytes() for path in tmp_path.glob("runs/*/result.json")}
    assert len(results) == 2
    code, printed, _ = command(line.replace("seed=0,1", "seed=2,1"))
    assert code == 0 and printed.count("has finished already") == 1
    assert "Job 2 (1 of 2): seed=2\n" in printed
    assert re.search(r"Job 1 \(2 of 2\): seed=1  about \d+ s left for all jobs\n", printed)
    assert {path: path.read_bytes() for path in results} == results
    (parent,), children = Store(tmp_path).sweeps()
    assert parent.info.status == "FINISHED"
    assert sorted(child.info.run_name for child in children) == ["seed=0", "seed=1", "seed=2"]
    check_report_on_all(tmp_path, parent, printed)
    assert "3 runs compared" in command(f"compare {next(tmp_path.glob('runs/sweep-*'))}")[1]


def check_report_on_all(root, parent, printed):
    """Check that table, report, best run and MLflow's parent are of three jobs of two launches."""
    rows = [row.split()[:2] for row in printed.splitlines() if "  finished  " in row]
    assert rows == [["0", "seed=0"], ["1", "seed=1"], ["2", "seed=2"]]
    losses = {
        path.parent: json.loads(path.read_text())["validation"]
        for path in root.glob("runs/*/result.json")
    }
    run = min(losses, key=lambda run: losses[run]["loss"])
    (folder,) = root.glob("runs/sweep-*")
    assert (folder / "leaderboard.md").read_text().count("| finished |") == 3
    assert "3 runs compared" in (folder / "compare.html").read_text()
    assert find_folder(parent.info.run_id, Store(root).uri) == find_folder(str(folder), None) == run
    assert f"validation perplexity {losses[run]['perplexity']:,.2f}" in parent.data.tags["best"]
    for name in ("loss", "perplexity"):
        assert parent.data.metrics[f"validation/{name}"] == losses[run][name]
    best = Store(root).run_of(run)
    assert parent.data.metrics.keys() <= best.data.metrics.keys()
    registry = Store(root).client
    assert registry.get_model_version_by_alias("swept", "best").run_id == best.info.run_id
    assert len(registry.search_model_versions("name = 'swept'")) == 3  # each job once


def test_a_deleted_run_leaves_the_table_and_a_stopped_sweep_lists_what_it_did_not_start(tmp_path):
    grid = [[f"optimizer.lr={lr}", "trainer.epochs=1"] for lr in ("1e-3", "1e-2", "1e-3")]
    folder, names = tmp_path / "sweep", ["optimizer.lr"]
    assert number_jobs(folder, grid, names) == [0, 1, 0]
    assert [(job.name, job.state) for job in read_jobs(folder)] == [
        ("lr=1e-3", "not started"), ("lr=1e-2", "not started"),
    ]  # fmt: skip
    with pytest.raises(UserError, match="a sweep without a best run so far"):
        find_folder(str(folder), None)
    write_record(folder, 1, JobRecord(1, {"lr": "1e-2"}, "finished", "", "/gone/run", 1.0))
    assert [job.number for job in read_jobs(folder)] == [0]
    (tmp_path / "run").mkdir()  # the root of all runs was moved
    (tmp_path / "run" / "result.json").write_text('{"validation": {"loss": 2.0}}')
    assert [(job.loss, job.folder) for job in read_jobs(folder)[1:]] == [(2.0, f"{tmp_path}/run")]
    forget_unstarted(folder, [0])
    assert [job.number for job in read_jobs(folder)] == [1]


def test_a_sweep_that_does_not_compose_starts_no_job(command, corpus, tmp_path, store_at_hand):
    line = train_command(corpus, "clm", "trainer.max_steps=1")
    code, _, complaint = command(f"{line} -m trainer.max_stepz=1,2")
    assert code == 2 and "trainer.max_steps" in complaint and complaint.count("\n") == 1
    assert Store(tmp_path).sweeps() == ([], [])
    assert not list(tmp_path.glob("runs/.launches/*"))
    assert command(f"{line} -m optimizer=adamw,adafactor")[0] == 0
    assert command(f"{line} -m optimizer=adamw,adaptor")[0] == 2
    (parent,), children = Store(tmp_path).sweeps()
    assert parent.info.status == "FAILED" and len(children) == 2


def test_jobs_fail_alone_and_interrupts_end_the_sweep(corpus, tmp_path, store_at_hand):
    line = train_command(corpus, "clm", "trainer.epochs=99") + " -m optimizer.lr=1e30,1e-3 seed=0,1"
    log = tmp_path / "log.txt"
    process = start(line, tmp_path, log)

    def third_is_at_work():  # those that fail don't come so far
        folders = [path.parent for path in tmp_path.glob("runs/*/metrics.jsonl")]
        return any(points.step > 9 for folder in folders for points in read_points(folder))

    wait_for(third_is_at_work)
    os.kill(process.pid, 2)
    process.join(60)
    assert process.exitcode == 130
    assert "Job 2 (3 of 4): lr=0.001 seed=0" in log.read_text()
    rows = [row.split() for row in log.read_text().splitlines() if " seed=" in row]
    assert [row[3] for row in rows[-4:]] == ["failed", "failed", "stopped", "not"], rows
    (parent,), children = Store(tmp_path).sweeps()
    assert parent.info.status == "FAILED"
    assert sorted(child.info.status for child in children) == ["FAILED", "FAILED", "KILLED"]


@pytest.mark.soak
def test_two_launches_of_one_grid_at_once_run_nothing_twice(corpus, tmp_path, store_at_hand):
    line = train_command(corpus, "clm") + f" {GRID}"
    logs = [tmp_path / "one.txt", tmp_path / "two.txt"]
    both = [start(line, tmp_path, log) for log in logs]
    for process in both:
        process.join(200)
    assert [process.exitcode for process in both] == [1, 1], logs[0].read_text()[-2000:]
    check_grid(tmp_path)
    for folder in tmp_path.glob("runs/*-*"):
        if (folder / "result.json").exists():
            assert (folder / "run.log").read_text().count("step 0: validation loss") == 1


@pytest.mark.soak
def test_memory_does_not_grow_from_job_to_job(corpus, tmp_path):
    line = (
        train_command(corpus, "clm", "trainer.max_steps=2", "tracker=none") + " -m seed=range(0,11)"
    )
    process = start(line, tmp_path, tmp_path / "log.txt")
    meter, sizes = psutil.Process(process.pid), {}
    while process.is_alive():
        finished = len(list(tmp_path.glob("runs/*/result.json")))
        with suppress(psutil.NoSuchProcess):
            sizes.setdefault(finished, meter.memory_info().rss)
        time.sleep(0.02)
    process.join()
    assert process.exitcode == 0 and max(sizes) == 11
    assert sizes[10] - sizes[2] < 10e6, sizes


def test_a_failing_launch_folder_or_tracker_is_one_sentence(command, corpus):
    code, _, complaint = command(train_command(corpus) + " -m seed=0,1 tracker.uri=ftp://nowhere")
    assert code == 2 and "tracker.uri" in complaint and complaint.count("\n") == 1


def test_a_sweep_is_identified_by_the_knobs_its_jobs_share(corpus):
    def common(*overrides):
        values = Run(compose(*corpus, *overrides)).values
        return common_knobs(values, ["seed", "optimizer"])

    assert common("seed=1", "optimizer.lr=1", "hardware.micro_batch_size=2") == common()
    assert common("trainer.epochs=1") != common()


def test_the_swept_knobs_get_short_names():
    assert swept_names(["a.lr=1,2", "b=3", "seed=range(0,3)"], {"params": {"c.lr": "4,5"}}) == [
        "a.lr", "seed", "c.lr",
    ]  # fmt: skip
    words = ["optimizer.lr=3e-05", "seed=1", "b.size=1e+30", "c.size=4", "trainer.epochs=2"]
    names = ["optimizer.lr", "seed", "b.size", "c.size"]
    assert shorten_knobs(pick_values(words, names), names) == {
        "lr": "3e-5", "seed": "1", "b.size": "1e30", "c.size": "4",
    }  # fmt: skip


@pytest.mark.soak
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_in_processes_of_their_own(launcher, corpus, tmp_path):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    line = train_command(corpus, "clm", "trainer.max_steps=2")
    line += f" -m hydra/launcher={launcher} seed=0,1 optimizer.lr=1e-3,1e30"
    process = spawn(line, tmp_path, stdout=subprocess.PIPE)
    table = process.communicate(timeout=150)[0]
    assert process.returncode == 1
    (parent,), children = Store(tmp_path).sweeps()
    assert parent.info.status == "FAILED"
    assert sorted(c.info.status for c in children) == 2 * ["FAILED"] + 2 * ["FINISHED"]
    assert table.count("finished") == 2 and table.count("failed") >= 2
    if launcher == "joblib":  # submitit's jobs print to files
        assert set(map("job {}: ".format, range(4))) == {
            line[:7] for line in table.splitlines() if "step   " in line
        }
