"""A sweep ends with a table of its jobs, its best job, and a report that never fails."""

import io
import json
import math
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from lmft.output.terminal import Terminal
from lmft.runs.find_run import find_folder
from lmft.sweep.plots import average_seeds, draw_knobs, place_values
from lmft.sweep.records import JobRecord
from lmft.sweep.report import group_by_conditions, report_jobs

TINY = ["dataset.block_size=16", "trainer.max_steps=2", "model.dropout=0"]
HOSTILE = "<script>|$x$[b]`字"


def note_of(number, folder, **knobs):
    """The note of a finished job."""
    loss = json.loads((folder / "result.json").read_text())["validation"]["loss"]
    return JobRecord(number, knobs, "finished", "", str(folder), loss)


def ended(notes, folder, width=100):
    """The terminal's output at the end of the sweep, at this width."""
    shown = io.StringIO()
    report_jobs(notes, folder, Terminal(Console(file=shown, width=width, highlight=False)))
    return shown.getvalue()


def texts_of(svg):
    """All words of a picture."""
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.text]


@pytest.fixture
def jobs(runs_of_module, tmp_path):
    """Two finished jobs, the first again, and a failed one."""
    fit, corpus = runs_of_module
    runs = [fit(*corpus, *TINY, f"optimizer.lr={lr}") for lr in ("1e-5", "1e-3")]
    slow, fast = (shutil.copytree(run, tmp_path / "runs" / run.name) for run in runs)
    failed = JobRecord(
        3, {"lr": "1e20", "mode": HOSTILE}, "failed", f"lower optimizer.lr\n{HOSTILE}"
    )
    return [
        note_of(0, slow, lr="1e-5", mode="a"),
        note_of(1, fast, lr="1e-3", mode="b"),
        note_of(2, slow, lr="1e-5", mode=HOSTILE),  # a knob may change no number: one run
        failed,
    ]


def test_a_sweep_means_its_best_run_whatever_a_later_launch_finds(jobs, tmp_path):
    folder, best = tmp_path / "runs" / "sweep", Path(jobs[1].folder)
    shown = ended(jobs, folder).replace("\n", "")
    assert f"Folder  {best}" in shown and f"lmft generate run={best} prompt=TEXT" in shown
    assert f"lmft evaluate run={best}" in shown and "evaluation.split" not in shown
    assert find_folder(str(folder), None) == best
    shown = ended(jobs[:1], folder).replace("\n", "")  # a launch of a worse job alone
    assert f"Folder  {best}" in shown and find_folder(str(folder), None) == best
    shutil.rmtree(best)
    ended(jobs[:1], folder)
    assert find_folder(str(folder), None) == Path(jobs[0].folder)


def test_a_sweep_ends_with_a_report_on_its_jobs(jobs, tmp_path):
    folder = tmp_path / "runs" / "sweep"
    shown = ended(jobs, folder)
    best = math.exp(jobs[1].loss)
    assert f"Best    job 1, lr=1e-3 mode=b: validation perplexity {best:,.2f}" in shown
    assert str(folder / "compare.html") in shown.replace("\n", "")
    files = {path.name: path.read_text() for path in folder.iterdir()}
    reports = {"leaderboard.md", "knobs.svg", "compare.md", "compare.html"}
    assert files.keys() == {*reports, "best.json"}
    assert (
        "2 runs compared" in files["compare.html"] and "sweep · runs of 20" in files["compare.html"]
    )
    assert "is ahead of" in files["compare.md"]
    head, _, *rows = [line for line in files["leaderboard.md"].splitlines() if line[:1] == "|"]
    assert (
        head
        == "| job | lr | mode | state | validation loss | perplexity | test perplexity | reason |"
    )
    assert [row.split()[1] for row in rows] == ["1", "0", "2", "3"]
    test = json.loads((Path(jobs[1].folder) / "result.json").read_text())["test"]
    assert f"| {test['perplexity']:,.2f} |" in rows[0]
    assert (
        "The best job is chosen by validation; test is shown beside it." in files["leaderboard.md"]
    )
    assert f"{jobs[1].loss:.4f}" in rows[0] and "lower optimizer.lr" in rows[3]
    assert "\\<script\\>\\|" in rows[3]
    words = texts_of(files["knobs.svg"])
    assert {"lr", "mode", "validation perplexity", "1e-5", "1e-3", HOSTILE} <= set(words)
    assert "1e20" not in words and "median" in words  # the former has no loss
    assert len(files["knobs.svg"]) < 50_000
    ended(jobs, folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == files


def test_jobs_scored_under_different_conditions_are_not_ranked_together(runs_of_module, tmp_path):
    fit, corpus = runs_of_module
    causal = fit(*corpus, *TINY)
    masked = fit(*corpus, *TINY, "objective=mlm", "model=bert_tiny")
    notes = [note_of(0, causal, objective="clm"), note_of(1, masked, objective="mlm")]
    shown = ended(notes, tmp_path / "sweep")
    assert "scored under different conditions" in shown and "Best" not in shown
    assert len(group_by_conditions(notes)) == 2
    assert "| group | job |" in (tmp_path / "sweep" / "leaderboard.md").read_text()
    assert "never ranked" in (tmp_path / "sweep" / "compare.md").read_text()
    assert "Folder" not in shown and not (tmp_path / "sweep" / "best.json").exists()


def test_runs_that_cannot_be_compared_are_left_out_with_a_reason(jobs, tmp_path):
    ended(jobs[:1], tmp_path / "sweep")
    for sums in (tmp_path / "runs").glob("*/sums-*"):
        sums.unlink()
    shown = ended(jobs, tmp_path / "sweep")
    assert "The jobs are not compared" in shown and "has lost the sums" in shown
    left = {path.name for path in (tmp_path / "sweep").iterdir()}
    assert left == {"leaderboard.md", "knobs.svg", "best.json"}


@pytest.mark.parametrize("state", ["failed", "pruned", "stopped", "running"])
def test_a_sweep_without_a_finished_job_still_has_its_leaderboard(state, tmp_path):
    shown = ended([JobRecord(0, {"lr": "1"}, state, "at step 3")], tmp_path / "sweep")
    assert "Best" not in shown and "at step 3" in shown
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["leaderboard.md"]


def test_a_sweep_of_no_job_leaves_nothing(tmp_path):
    ended([], tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_long_reason_gets_the_full_width_of_a_small_terminal(tmp_path):
    reason = "hardware.device is 'cuda', but torch finds none here; try hardware=cpu [bold]."
    name = {"learning_rate_of_the_head": "0.00001", "seed": "1"}
    shown = ended([JobRecord(7, name, "failed", reason)], tmp_path, width=50)
    (start,) = (n for n, line in enumerate(shown.splitlines()) if line.startswith("job 7"))
    lines = shown.splitlines()[start : start + 3]
    assert reason in " ".join(" ".join(lines).removeprefix("job 7").split())
    assert max(map(len, lines)) > 40


@pytest.mark.parametrize(
    ("values", "scale", "at"),
    [
        (["1e-5", "3e-4", "1e-2"], "log", [1e-5, 3e-4, 1e-2]),
        (["1", "2", "10"], "linear", [1, 2, 10]),
        (["0", "1e-2", "10"], "linear", [0, 0.01, 10]),
        (["cosine", "constant"], "linear", [0, 1]),
        (["null", "3", "inf"], "linear", [0, 1, 2]),
    ],
)
def test_an_axis_follows_from_its_values(values, scale, at):
    axes = Figure().add_subplot()
    positions = place_values(axes, values)
    assert axes.get_xscale() == scale
    assert [positions[value] for value in values] == at
    assert [label.get_text() for label in axes.get_xticklabels()] == values


def test_a_picture_of_knobs_averages_over_seeds():
    losses = {("1", "0"): 1.0, ("1", "1"): 3.0, ("2", "0"): 2.5, ("2", "1"): 2.5}
    jobs = [
        JobRecord(n, {"lr": lr, "seed": seed}, "finished", "", "", loss)
        for n, ((lr, seed), loss) in enumerate(losses.items())
    ]
    mean = [(job.knobs, job.loss) for job in average_seeds(jobs)]
    assert mean == [({"lr": "1"}, 2.0), ({"lr": "2"}, 2.5)]
    words = texts_of(draw_knobs([jobs])["knobs.svg"])
    assert {"lr", "mean over seeds"} <= set(words) and "seed" not in words
    assert draw_knobs([jobs[:2]]) == {}  # nothing but the seed differs


def test_a_picture_of_knobs_has_those_that_vary_and_losses_that_are_numbers():
    notes = [
        JobRecord(n, {"lr": f"{n}", "seed": "0"}, "finished", "", "", loss)
        for n, loss in enumerate([1.0, 5.0, 1e5, math.inf])
    ]
    words = texts_of(draw_knobs([notes])["knobs.svg"])
    assert "lr" in words and "seed" not in words
    assert {"0", "1"} <= set(words) and not {"2", "3"} & set(words)
    assert draw_knobs([notes[:1]]) == draw_knobs([]) == {}
