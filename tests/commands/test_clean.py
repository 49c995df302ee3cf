"""`lmft clean`: what it removes, and above all what it leaves alone."""

import json

import pytest

from lmft.commands.clean import find
from lmft.errors import UserError
from lmft.runs.listing import list_runs
from lmft.storage.lock import run_lock
from tests.helpers.runs import RESULT, write_run


def test_a_running_run_is_neither_unfinished_nor_removed(tmp_path, command):
    folder = write_run(tmp_path / "runs" / "a-1")
    with run_lock(folder):
        (entry,) = list_runs(tmp_path / "runs")
        assert entry.state.value == "running"
        assert command("clean yes=true")[0] == 0 and folder.exists()
        code, _, complaint = command("clean a-1 yes=true")
        assert code == 2 and "still running" in complaint and folder.exists()
    assert list_runs(tmp_path / "runs")[0].state.value == "unfinished"


@pytest.mark.parametrize("reply", ["", "n", "no", None])
def test_clean_removes_nothing_without_a_yes(reply, command, tmp_path, monkeypatch):
    folder = write_run(tmp_path / "runs" / "a-1")

    def asked(question):
        if reply is None:
            raise EOFError
        return reply

    monkeypatch.setattr("builtins.input", asked)
    code, printed, _ = command("clean")
    assert code == 0 and str(folder) in printed and "2.0 MB" in printed
    assert folder.exists()


def test_clean_removes_unfinished_runs_only_unless_runs_are_named(command, tmp_path, monkeypatch):
    done = write_run(tmp_path / "runs" / "a-1", RESULT)
    begun, scored = (write_run(tmp_path / "runs" / name) for name in ("b-2", "c-3"))
    (scored / "evaluations.json").write_text(json.dumps({"key": RESULT}))
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert command("clean")[0] == 0
    assert done.exists() and scored.exists() and not begun.exists()
    assert command("clean a-1")[0] == 0
    assert not done.exists() and scored.exists()


def test_clean_leaves_alone_what_is_elsewhere(tmp_path, command):
    outside = write_run(tmp_path / "other" / "b-2")
    inside = write_run(tmp_path / "runs" / "a-1", RESULT)
    (tmp_path / "runs" / "link").symlink_to(outside)
    (inside / "link").symlink_to(outside)
    for name in ("../other/b-2", str(outside), "link", "nothing", ".", "..", "/"):
        code, _, complaint = command(f"clean {name} yes=true")
        assert code == 2 and complaint.count("\n") == 1, name
    assert command("clean yes=true")[0] == 0
    assert command("clean a-1 yes=true")[0] == 0
    assert not inside.exists()
    assert (outside / "weights.bin").exists()


def test_a_root_that_is_a_link_is_still_the_root(tmp_path):
    folder = write_run(tmp_path / "runs" / "a-1")
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    assert find("a-1", tmp_path / "link") == folder
    with pytest.raises(UserError, match="outside of run_root"):
        find(str(folder), tmp_path / "elsewhere")


def test_cleaning_the_cache_removes_only_what_lmft_wrote(tmp_path, command):
    cache = tmp_path / "cache"
    key = "0123456789abcdef" * 2
    for name in (f"tokens/{key}", f"tokenizers/{key}", f"baselines/{key}", "tokens/mine", "mine"):
        (cache / name).mkdir(parents=True)
        (cache / name / "file").write_text("x")
    (cache / "tokens" / f"{key}.lock").touch()
    assert command("clean cache_root=cache yes=true")[0] == 0
    assert (cache / "tokens" / key).exists()
    assert command("clean cache_root=cache cache=true yes=true")[0] == 0
    left = sorted(str(path.relative_to(cache)) for path in cache.rglob("file"))
    assert left == ["mine/file", "tokens/mine/file"]
    assert not (cache / "tokens" / f"{key}.lock").exists()


def test_a_cache_that_is_a_link_elsewhere_is_refused(tmp_path, command):
    (tmp_path / "other" / "tokens").mkdir(parents=True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tokens").symlink_to(tmp_path / "other" / "tokens")
    code, _, complaint = command("clean cache_root=cache cache=true yes=true")
    assert code == 2 and "leads out of cache_root" in complaint
