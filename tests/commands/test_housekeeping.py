"""`lmft runs` and `lmft clean`: what they show, and above all what they leave alone."""

import json

import pytest

from lmft.commands.clean import find
from lmft.commands.runs import label_knobs
from lmft.errors import UserError
from lmft.runs.listing import list_runs
from lmft.storage.lock import run_lock

RESULT = {"perplexity": 27.61, "fingerprint": "f", "conditions": {"split": "validation"}}


@pytest.fixture
def make_run(tmp_path):
    def make(name, result=None, config="seed: 0", root=None):
        folder = (root or tmp_path / "runs") / name
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "config.yaml").write_text(config)
        (folder / "weights.bin").write_bytes(b"x" * 2_000_000)
        if result:
            (folder / "result.json").write_text(json.dumps({"validation": result, "test": None}))
        return folder

    return make


@pytest.fixture
def answer(monkeypatch):
    """What a person answers to every question."""

    def say(text):
        monkeypatch.setattr("builtins.input", lambda question: text)

    return say


def test_runs_tells_state_size_perplexity_and_what_differs(make_run, command):
    make_run("a-1", RESULT, "seed: 0\noptimizer: {lr: '${either:true,0.1,0}'}\nrun_root: x")
    make_run("b-2", None, "seed: 1\noptimizer: {lr: 0.1}\nrun_root: y")
    make_run("c-3", None, "seed: [")  # half written
    code, printed, complaint = command("runs")
    assert (code, complaint) == (0, "")
    first, second, third = sorted(line for line in printed.splitlines() if line[1:2] == "-")
    assert "finished" in first and "27.61 validation" in first and "seed=0" in first
    assert "unfinished" in second and "2.0 MB" in second and "seed=1" in second
    assert "unfinished" in third and "run_root" not in printed


def test_no_runs_is_no_mistake(command):
    code, printed, _ = command("runs run_root=elsewhere")
    assert code == 0 and "No run in" in printed


def test_knobs_are_called_by_the_shortest_name_that_is_their_own():
    first = {"model.name": "a", "dataset.name": "b", "optimizer.lr": 1, "seed": 0}
    second = {"model.name": "c", "dataset.name": "d", "optimizer.lr": 2, "seed": 0}
    assert set(label_knobs([first, second]).values()) == {"model.name", "dataset.name", "lr"}


def test_a_run_at_work_is_neither_unfinished_nor_removed(make_run, tmp_path, command):
    folder = make_run("a-1")
    with run_lock(folder):
        (entry,) = list_runs(tmp_path / "runs")
        assert entry.state.value == "running"
        assert command("clean yes=true")[0] == 0 and folder.exists()
        code, _, complaint = command("clean a-1 yes=true")
        assert code == 2 and "still running" in complaint and folder.exists()
    assert list_runs(tmp_path / "runs")[0].state.value == "unfinished"


@pytest.mark.parametrize("reply", ["", "n", "no", None])
def test_clean_removes_nothing_without_a_yes(reply, make_run, command, monkeypatch):
    folder = make_run("a-1")

    def asked(question):
        if reply is None:
            raise EOFError
        return reply

    monkeypatch.setattr("builtins.input", asked)
    code, printed, _ = command("clean")
    assert code == 0 and str(folder) in printed and "2.0 MB" in printed
    assert folder.exists()


def test_clean_removes_unfinished_runs_only_unless_runs_are_named(make_run, command, answer):
    done, begun, scored = make_run("a-1", RESULT), make_run("b-2"), make_run("c-3")
    (scored / "evaluations.json").write_text(json.dumps({"key": RESULT}))
    answer("y")
    assert command("clean")[0] == 0
    assert done.exists() and scored.exists() and not begun.exists()
    assert command("clean a-1")[0] == 0
    assert not done.exists() and scored.exists()


def test_clean_leaves_alone_what_lies_elsewhere(make_run, tmp_path, command):
    outside = make_run("b-2", root=tmp_path / "other")
    inside = make_run("a-1", RESULT)
    (tmp_path / "runs" / "link").symlink_to(outside)
    (inside / "link").symlink_to(outside)
    for name in ("../other/b-2", str(outside), "link", "nothing", ".", "..", "/"):
        code, _, complaint = command(f"clean {name} yes=true")
        assert code == 2 and complaint.count("\n") == 1, name
    assert command("clean yes=true")[0] == 0
    assert command("clean a-1 yes=true")[0] == 0
    assert not inside.exists()
    assert (outside / "weights.bin").exists()


def test_a_root_that_is_a_link_is_still_the_root(make_run, tmp_path):
    folder = make_run("a-1")
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    assert find("a-1", tmp_path / "link") == folder
    with pytest.raises(UserError, match="outside of run_root"):
        find(str(folder), tmp_path / "elsewhere")


def test_cleaning_the_cache_takes_only_what_lmft_put_there(tmp_path, command):
    cache = tmp_path / "cache"
    key = "0123456789abcdef" * 2
    for name in (f"tokens/{key}", f"tokenizers/{key}", "tokens/mine", "mine"):
        (cache / name).mkdir(parents=True)
        (cache / name / "file").write_text("x")
    (cache / "tokens" / f"{key}.lock").touch()
    assert command("clean cache_root=cache yes=true")[0] == 0
    assert (cache / "tokens" / key).exists()
    assert command("clean cache_root=cache cache=true yes=true")[0] == 0
    left = sorted(str(path.relative_to(cache)) for path in cache.rglob("file"))
    assert left == ["mine/file", "tokens/mine/file"]
    assert not (cache / "tokens" / f"{key}.lock").exists()


def test_a_cache_that_leads_elsewhere_is_refused(tmp_path, command):
    (tmp_path / "other" / "tokens").mkdir(parents=True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tokens").symlink_to(tmp_path / "other" / "tokens")
    code, _, complaint = command("clean cache_root=cache cache=true yes=true")
    assert code == 2 and "leads out of cache_root" in complaint
