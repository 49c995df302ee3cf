"""The MLflow page: checkpoints are models, and runs are compared by their curves."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import closing, suppress
from pathlib import Path

import pytest

from lmft.tracker.mlflow_tracker import MlflowTracker
from lmft.tracker.mlflow_view import ADDRESS
from lmft.tracker.run_log import Record
from tests.helpers.mlflow import Store
from tests.helpers.processes import wait_for
from tests.helpers.runs import train_command

LOSSES = ("train/loss", "validation/loss")
NAMES = ("lr=0.001", "lr=0.01")
HARMLESS = re.compile("ResizeObserver|users/current")  # said by the page on any store
HOME = Path(__file__).parents[2]


def models_of(store, folder):
    """The logged models of the run of `folder`."""
    run = store.run_of(folder).info
    return store.client.search_logged_models([run.experiment_id], f"source_run_id = '{run.run_id}'")


def test_a_finished_run_has_its_checkpoint_as_one_model_with_what_it_reaches(fit, store, corpus):
    folder = fit(*corpus, *store.overrides, "dataset.block_size=16", "trainer.evaluate_every=4")
    result = json.loads((folder / "result.json").read_text())
    (model,) = models_of(store, folder)
    assert (model.name, model.status) == (folder.name, "READY")
    assert Path(model.tags["lmft.checkpoint"]).is_dir()
    assert model.params == {"best_step": str(result["best_step"])}
    reached = {metric.key: metric.value for metric in model.metrics}
    assert {metric.step for metric in model.metrics} == {result["best_step"]}
    for split in ("validation", "test"):
        for name in ("loss", "perplexity"):
            assert reached[f"{split}/{name}"] == pytest.approx(result[split][name])
    for key in reached | store.run_of(folder).data.metrics:
        store.points(folder, key)  # each step once

    tracker = MlflowTracker(store.uri, "lmft")
    with closing(Record(folder)) as record, tracker.update_run(record):
        pass
    assert [known.model_id for known in models_of(store, folder)] == [model.model_id]
    (made,) = store.client.get_run(model.source_run_id).outputs.model_outputs
    assert (made.model_id, made.step) == (model.model_id, result["best_step"])


def test_a_model_that_a_kill_left_unfinished_is_completed(fit, store, corpus):
    """The run is uploaded to a second store, in which a kill has left the model unfinished."""
    folder = fit(*corpus, "dataset.block_size=16", "trainer.max_steps=2")
    tracker = MlflowTracker(store.uri, "killed")
    with closing(Record(folder)) as record:
        result = (folder / "result.json").rename(folder / "not-yet.json")
        with tracker.track_run(record):
            pass
        assert models_of(store, folder) == []
        result.rename(folder / "result.json")
        run = store.run_of(folder).info
        model = store.client.create_logged_model(run.experiment_id, "checkpoint", run.run_id)
        with tracker.update_run(record):
            pass
    (found,) = models_of(store, folder)
    assert (found.model_id, found.status) == (model.model_id, "READY")
    assert "test/loss" in {metric.key for metric in found.metrics}


@pytest.fixture
def page():
    """A page of a real browser, with the errors that it logged."""
    reason = "the MLflow page is driven only where there are playwright and chromium"
    api = pytest.importorskip("playwright.sync_api", reason=reason)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip(reason)
    with api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        page = browser.new_page(viewport={"width": 1200, "height": 490})
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("console", lambda said: said.type == "error" and page.complaints.append(
            f"{said.text} {said.location['url']}"))  # fmt: skip
        yield page
        browser.close()


@pytest.fixture
def server(store_at_hand, tmp_path):
    """The address of the page on the store of this test, as `make ui` starts it."""
    if shutil.which("make") is None:
        pytest.skip("there is no make to start the page with")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [f"STORE={Store(tmp_path).uri}", f"PORT={port}", f"BIN={Path(sys.executable).parent}"]
    with (tmp_path / "server.txt").open("w") as log:
        process = subprocess.Popen(
            ["make", "-o", ".venv/made", "ui", *words],
            cwd=HOME, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    yield f"http://127.0.0.1:{port}"
    for number in (signal.SIGTERM, signal.SIGKILL):  # make and all that it started
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(3)


def answers(address):
    """Whether there is a server."""
    with suppress(OSError), urllib.request.urlopen(f"{address}/health") as reply:
        return reply.status == 200


@pytest.mark.soak
def test_the_page_begins_with_the_losses_and_the_best_run(server, page, corpus, command, tmp_path):
    """An evaluation on another text would come first by the name of its metrics."""
    line = train_command(corpus, "clm", "trainer.epochs=2", "trainer.evaluate_every=2")
    assert command(f"-m {line} optimizer.lr=1e-3,1e-2")[0] == 0
    (best,) = tmp_path.glob("runs/sweep-*/best.json")
    run = json.loads(best.read_text())["run"]
    words = f"dataset.name=a_text dataset.test={tmp_path / 'train.txt'} cache_root=cache"
    assert command(f"evaluate run=runs/{run} {words}")[0] == 0
    wait_for(lambda: answers(server))
    page.goto(f"{server}/#/experiments/1/runs{ADDRESS}")
    page.get_by_role("button", name="Close").first.click()  # the assistant
    sections = page.get_by_role("button").filter(has_text=re.compile(r"\(\d+\)"))
    sections.filter(has_text="losses").wait_for()
    assert sections.first.inner_text().split()[:2] == ["losses", "(2)"]
    for loss in LOSSES:
        for name in NAMES:
            page.get_by_text(f"{name} ({loss})").wait_for()
    assert page.get_by_role("link", name="lr=").first.inner_text() == "lr=0.01"  # which learns more


@pytest.mark.soak
def test_two_runs_of_a_sweep_are_compared_by_their_loss_curves(
    server, page, corpus, command, tmp_path
):
    line = train_command(corpus, "clm", "trainer.epochs=2", "trainer.evaluate_every=2")
    assert command(f"-m {line} optimizer.lr=1e-3,1e-2")[0] == 0
    wait_for(lambda: answers(server))
    page.goto(f"{server}/#/experiments/1/runs")
    page.get_by_role("button", name="Close").click()  # the assistant
    page.get_by_role("gridcell").filter(has_text="sweep-lr").get_by_role("button").click()
    for name in NAMES:
        link = page.get_by_role("link", name=name, exact=True)
        page.get_by_role("row").filter(has=link).get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("heading", name="Comparing 2 Runs").wait_for()
    address = page.get_by_role("link", name="train/loss").get_attribute("href")
    both = "plot_metric_keys=" + json.dumps(LOSSES)
    page.goto(f"{server}/{re.sub('plot_metric_keys=[^&]*', both, address)}")
    for name in NAMES:
        for loss in LOSSES:
            page.get_by_text(f"{name} ({loss})").wait_for()
    drawn = {path.get_attribute("d") for path in page.locator("path.js-line").all()}
    assert len(drawn) == 4  # each has more than a point or two
    assert all(path.count("L") >= 5 for path in drawn)
    assert not [text for text in page.complaints if not HARMLESS.search(text)]
    (parent,) = (path for path in tmp_path.glob("runs/sweep-*") if path.is_dir())
    assert {path.name for path in parent.iterdir()} >= {"compare.html", "knobs.svg"}
