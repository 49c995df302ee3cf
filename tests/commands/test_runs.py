"""`lmft runs`: the state of each run, and the knobs that differ."""

from lmft.commands.runs import label_knobs
from tests.helpers.runs import RESULT, write_run


def test_runs_shows_state_size_perplexity_and_differing_knobs(command, tmp_path):
    write_run(
        tmp_path / "runs" / "a-1",
        RESULT,
        "seed: 0\noptimizer: {lr: '${either:true,0.1,0}'}\nrun_root: x",
    )
    write_run(tmp_path / "runs" / "b-2", None, "seed: 1\noptimizer: {lr: 0.1}\nrun_root: y")
    write_run(tmp_path / "runs" / "c-3", None, "seed: [")  # half written
    code, printed, complaint = command("runs")
    assert (code, complaint) == (0, "")
    first, second, third = sorted(line for line in printed.splitlines() if line[1:2] == "-")
    assert "finished" in first and "27.61 validation" in first and "seed=0" in first
    assert "unfinished" in second and "2.0 MB" in second and "seed=1" in second
    assert "unfinished" in third and "run_root" not in printed


def test_no_runs_is_no_mistake(command):
    code, printed, _ = command("runs run_root=elsewhere")
    assert code == 0 and "No run in" in printed


def test_knobs_get_the_shortest_unique_name():
    first = {"model.name": "a", "dataset.name": "b", "optimizer.lr": 1, "seed": 0}
    second = {"model.name": "c", "dataset.name": "d", "optimizer.lr": 2, "seed": 0}
    assert set(label_knobs([first, second]).values()) == {"model.name", "dataset.name", "lr"}
