"""`lmft runs`: the state of each run, and the knobs that differ."""

import json

from lmft.commands.runs import as_lines, label_knobs, telling_knobs
from lmft.runs.listing import list_runs
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
    assert "finished" in first and "27.61" in first and "seed=0" in first
    assert "unfinished" in second and "2.0 MB" in second and "seed=1" in second
    assert "unfinished" in third and "run_root" not in printed


def test_each_run_has_a_line_or_two_at_any_width(tmp_path):
    for number in range(10):
        test = RESULT | {"perplexity": 30.5, "conditions": {"split": "test"}}
        folder = write_run(
            tmp_path / f"gpt2_tiny-my_notes_of_2026-clm-{number:010}",
            RESULT,
            f"seed: {number}\noptimizer: {{lr: 1e-{number}}}\n"
            f"trainer: {{warmup: {number}, schedule: a_schedule_with_a_rather_long_name_{number}}}",
        )
        (folder / "evaluations.json").write_text(json.dumps({"f": test}))
    runs = list_runs(tmp_path)
    for width, lines in ((40, 21), (80, 21), (200, 11)):
        shown = [line.plain for line in as_lines(runs, width)]
        assert len(shown) == lines
        if width > 40:  # a name is never cut
            assert max(map(len, shown)) <= width
        assert "…" not in "".join(line for line in shown if "my_notes" in line and width < 200)
    piped = [line.plain for line in as_lines(runs, None)]
    assert piped[0].split()[:4] == ["run", "validation", "test", "state"]
    cells = piped[1].split()
    assert cells[:4] == [runs[0].path.name, "27.61", "30.50", "finished"]
    assert "seed=0" in cells and "warmup=0" in cells


def test_a_knob_that_the_name_of_the_folder_tells_is_not_shown(tmp_path):
    for name, depth, lr in (("a-1", 1, 0.1), ("a-2", 1, 0.2), ("b-3", 2, 0.1)):
        config = f"model: {{config: {{n_layer: {depth}}}}}\noptimizer: {{lr: {lr}}}\nseed: null"
        write_run(tmp_path / name, None, config)
    assert telling_knobs(list_runs(tmp_path)) == [["lr=0.1"], ["lr=0.2"], ["lr=0.1"]]
    write_run(tmp_path / "b-4", None, "model: {config: {n_layer: 3}}\noptimizer: {lr: 0.1}")
    shown = telling_knobs(list_runs(tmp_path))
    assert shown[-2:] == [["n_layer=2", "lr=0.1"], ["n_layer=3", "lr=0.1"]]


def test_no_runs_is_no_mistake(command):
    code, printed, _ = command("runs run_root=elsewhere")
    assert code == 0 and "No run in" in printed


def test_knobs_get_the_shortest_unique_name():
    first = {"model.name": "a", "dataset.name": "b", "optimizer.lr": 1, "seed": 0}
    second = {"model.name": "c", "dataset.name": "d", "optimizer.lr": 2, "seed": 0}
    assert set(label_knobs([first, second]).values()) == {"model.name", "dataset.name", "lr"}
