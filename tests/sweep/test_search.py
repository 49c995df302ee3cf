"""A search as the command starts it: mistakes, pruned runs, and resuming after kill -9."""

import os
import random
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from hydra.core.config_store import ConfigStore
from optuna.trial import TrialState

from lmft.config.compose import compose_run
from lmft.storage.lock import run_lock
from lmft.tracker.run_log import read_facts
from tests.helpers.mlflow import Store
from tests.helpers.processes import kill, start, wait_for, warm_up
from tests.helpers.runs import read_metrics, train_command

SEARCH = "-m hydra/sweeper=optuna tracker=none"
SAMPLER = "hydra.sweeper.sampler._target_=optuna.samplers."
MISTAKES = {
    "seed=3": "nothing to search",
    "seed=0,1 hydra.sweeper.n_trials=0": "hydra.sweeper.n_trials must be a whole number from 1 to",
    "seed=0,1 hydra.sweeper.study_name=a/b": "hydra.sweeper.study_name",
    "seed=0,1 hydra.sweeper.sampler._target_=os.system": "choose optuna.",
    "seed=0,1 hydra.sweeper.pruner={_target_:os.system}": "choose optuna.",
    "seed=0,1 hydra.sweeper.pruner={_target_:optuna.pruners.PercentilePruner}": "'percentile'; fix",
    "seed=0,1 hydra.sweeper.pruner={upper:1}": "set hydra.sweeper.pruner._target_=",
    "seed=0,1 hydra.sweeper.sampler=tpe": "set hydra.sweeper.sampler._target_=",
    "seed=0,1 hydra.sweeper.sampler={seed:3}": "must be added with a +",
    "seed=0,1 +hydra.sweeper.sampler={seed:3}": "set hydra.sweeper.seed instead",
    "seed=0,1 +hydra.sweeper.sampler.n_ei_candidates=0": "must be positive, but got 0; fix",
    f"'optimizer.lr=interval(0,1)' {SAMPLER}BruteForceSampler": "set optimizer.lr=range(",
    f"seed=0,1 {SAMPLER}GridSampler": "search_space={KNOB:",
    f"seed=0,1 {SAMPLER}GridSampler +hydra.sweeper.sampler.search_space={{debug:[1]}}": (
        "search_space has values of debug; remove them"
    ),
    "seed=0,1 hydra.sweeper.direction=maximize": "minimizes the validation loss",
    "seed=0,1 hydra.sweeper.n_jobs=-1": "hydra/launcher=joblib",
    "seed=0,1 hydra.sweeper.pruner={_target_:optuna.pruners.Median}": "Median",
    "model=gpt2_tiny,gpt3": "choose bert_base",
    "traner.epochs=1,2": "There is no knob 'traner.epochs'",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence_and_begins_nothing(mistake, command, tmp_path):
    code, _, complaint = command(f"{SEARCH} {mistake}")
    assert code == 2 and MISTAKES[mistake] in complaint
    assert complaint.startswith("lmft: ") and complaint.count("\n") == 1
    assert not list(tmp_path.glob("runs/*-*"))
    for path in tmp_path.glob("runs/.studies/*.db"):
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM trials").fetchone() == (0,)


def test_without_optuna_the_message_says_how_to_install_it(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, complaint = command(f"{SEARCH} seed=0,1")
    assert code == 2 and "pip install 'lmft[optuna]'" in complaint


def test_without_cmaes_no_trial_starts_and_the_message_says_how_to_install_it(
    command, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    for module in [name for name in sys.modules if name.startswith("optuna.samplers._cmaes")]:
        monkeypatch.delitem(sys.modules, module)
    code, _, complaint = command(
        f"{SEARCH} 'optimizer.lr=interval(0,1)' 'optimizer.weight_decay=interval(0,1)' "
        "hydra.sweeper.sampler._target_=optuna.samplers.CmaEsSampler"
    )
    assert code == 2 and "needs the package cmaes" in complaint and "lmft[optuna]" in complaint
    (storage,) = tmp_path.glob("runs/.studies/*.db")
    (summary,) = optuna.get_all_study_summaries(f"sqlite:///{storage}")
    assert summary.n_trials == 0


def test_the_other_plug_in_for_optuna_does_not_change_the_config():
    store = ConfigStore.instance()
    store.store(group="hydra/sweeper", name="optuna", node={"direction": "minimize"})
    found = compose_run(["hydra/sweeper=optuna"])
    assert found and "optuna.yaml" not in store.repo["hydra"]["sweeper"]


def test_a_second_process_on_the_same_study_is_refused(command, tmp_path):
    with run_lock(tmp_path / "runs" / "study-mine"):
        code, _, complaint = command(f"{SEARCH} seed=0,1 hydra.sweeper.study_name=mine")
    assert code == 3 and f"study-mine is already running in process {os.getpid()}" in complaint


def test_too_many_failures_end_the_search_until_more_are_allowed(corpus, command, tmp_path):
    line = (
        train_command(corpus, "clm", "optimizer.lr=1e30") + f" {SEARCH} 'seed=int(interval(0, 99))'"
    )
    line += " hydra.sweeper.n_trials=3 hydra.sweeper.max_failures="
    for _ in range(2):
        code, printed, complaint = command(f"{line}1")
        assert code == 2 and "2 trials failed, more than hydra.sweeper.max_failures=1" in complaint
        assert "No trial of the study has finished." in printed
        assert len(list(tmp_path.glob("runs/*-*/run.json"))) == 2
    assert command(f"{line}null")[0] == 1
    assert len(list(tmp_path.glob("runs/*-*/run.json"))) == 3
    code, printed, _ = command(f"{line}null")  # the study is complete
    assert code == 0 and printed.count("  failed  ") == 3
    code, _, complaint = command(f"{line}3 seed=0,1")
    assert code == 2 and "hydra.sweeper.study_name=" in complaint


def test_a_pruned_run_is_finished_by_the_same_command_outside_of_the_search(
    corpus, command, tmp_path, store_at_hand
):
    line = train_command(
        corpus, "clm", "trainer.epochs=2", f"tracker.uri=sqlite:///{tmp_path}/mlflow.db"
    )
    prune_all = "hydra.sweeper.pruner={_target_:optuna.pruners.ThresholdPruner,upper:0}"
    code, printed, _ = command(
        f"{line} -m hydra/sweeper=optuna {prune_all} hydra.sweeper.n_trials=1 seed=3,3"
    )
    assert code == 0 and "Pruned at step 6." in printed
    (folder,) = (path.parent for path in tmp_path.glob("runs/*-*/run.json"))
    assert read_facts(folder)["tags"]["pruned_at"] and not (folder / "result.json").exists()
    code, printed, _ = command(f"{line} seed=3")
    assert code == 0 and "Resuming from step" in printed and (folder / "result.json").exists()
    assert len(list(tmp_path.glob("runs/*-*/run.json"))) == 1


# Learning rates and seeds of eight trials, and what becomes of them.
POINTS = [(1e-3, 0), (1e30, 1), (1e-4, 2), (1e-2, 3), (1e-6, 4), (1e30, 5), (1e-5, 6), (2e-5, 7)]
STATES = "COMPLETE FAIL PRUNED COMPLETE PRUNED FAIL PRUNED PRUNED".split()
SEARCH_POINTS = (
    "-m hydra/sweeper=optuna hydra.sweeper.study_name=points "
    "'optimizer.lr=tag(log, interval(1e-6, 1e30))' 'seed=int(interval(0, 9))' "
    "hydra.sweeper.pruner={_target_:optuna.pruners.MedianPruner,n_startup_trials:1}"
)


def begin(folder, count):
    """A study in which the first `count` points wait to be tried; returns its facts."""
    (folder / "runs" / ".studies").mkdir(parents=True)
    facts = {"study_name": "points", "storage": f"sqlite:///{folder}/runs/.studies/points.db"}
    study = optuna.create_study(**facts)
    for lr, seed in POINTS[:count]:
        study.enqueue_trial({"optimizer.lr": lr, "seed": seed})
    return facts


def check(folder, facts, count):
    """Check that each trial and its run has ended once, and that nothing is left running."""
    trials = optuna.load_study(**facts).trials
    assert [trial.state.name for trial in trials] == STATES[:count]
    assert [tuple(trial.params.values()) for trial in trials] == POINTS[:count]
    (parent,), children = Store(folder).sweeps()
    assert len(children) == count and "RUNNING" not in [run.info.status for run in children]
    states = {}
    for child in children:
        run = Path(child.data.tags["lmft.folder"])
        read_metrics(run)  # each once
        state = "PRUNED" if "pruned_at" in child.data.tags else "COMPLETE"
        if child.info.status == "FAILED":
            state = "FAIL"
        assert (state == "COMPLETE") == (run / "result.json").exists()
        states[int(child.data.params["seed"])] = state
    assert [states[seed] for _, seed in POINTS[:count]] == STATES[:count]
    return [trial.value for trial in trials if trial.state is TrialState.COMPLETE]


def line_of_search(corpus, count):
    trials = f"hydra.sweeper.n_trials={count}"
    return f"{train_command(corpus, 'clm', 'trainer.epochs=3')} {SEARCH_POINTS} {trials}"


@pytest.mark.soak
def test_a_search_killed_as_a_whole_resumes_its_study(corpus, command, tmp_path):
    count = 8
    warm_up()
    facts = begin(tmp_path, count)
    line, log = line_of_search(corpus, count), tmp_path / "log.txt"
    process = start(line, tmp_path, log)
    wait_for(lambda: len(list(tmp_path.glob("runs/*-*/metrics.jsonl"))) == 4)
    kill(process)
    running = [t.number for t in optuna.load_study(**facts).trials if t.state.name == "RUNNING"]
    assert running == [3]
    process = start(line, tmp_path, log)
    process.join(120)
    failed = "FAIL" in STATES[3:count]  # of those that this launch ran
    assert process.exitcode == int(failed), log.read_text()[-3000:]
    check(tmp_path, facts, count)
    started = time.monotonic()
    code, printed, _ = command(line)
    assert code == 0 and "Best of the study: trial" in printed and "Job" not in printed
    assert time.monotonic() - started < 10
    check(tmp_path, facts, count)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_however_often_a_search_is_killed(seed, corpus, tmp_path):
    warm_up()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    line, log = line_of_search(corpus, 8), tmp_path / "log.txt"
    facts = begin(whole, 8)
    process = start(line, whole, log)
    process.join(200)
    expected = check(whole, facts, 8)
    facts, chance = begin(broken, 8), random.Random(seed)
    for _ in range(10):
        process = start(line, broken, log)
        process.join(chance.uniform(0.5, 12))
        kill(process)
    process = start(line, broken, log)
    process.join(200)
    assert process.exitcode in (0, 1)
    assert check(broken, facts, 8) == expected
