"""The record of a run: each point once, even if recomputed, and no torn line."""

from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st

from lmft.tracker.run_log import POINTS, Record, read_points, read_values


@given(cut=st.integers(0, 200), again=st.integers(0, 9))
def test_what_is_recomputed_after_a_kill_is_recorded_once(tmp_path_factory, cut, again):
    folder = tmp_path_factory.mktemp("run")
    with closing(Record(folder)) as record:
        for step in range(10):
            record.log_metrics({"loss": step / 3}, step)
    content = (folder / POINTS).read_bytes()
    (folder / POINTS).write_bytes(content[: len(content) - cut])  # killed in the midst of a line
    kept = list(read_points(folder))
    with closing(Record(folder)) as record:
        for step in range(min(again, len(kept)), 12):
            record.log_metrics({"loss": step / 3, "validation": 1.0 if step == 11 else 0.5}, step)
    assert dict(read_values(folder, "loss")) == {step: step / 3 for step in range(12)}
    assert len([p for p in read_points(folder) if "loss" in p.metrics]) == 12
    assert list(read_points(folder))[: len(kept)] == kept  # with their times


def test_reading_resumes_where_it_stopped(tmp_path):
    with closing(Record(tmp_path)) as record:
        for step in range(5):
            record.log_metrics({"loss": float(step)}, step)
        first = list(read_points(tmp_path))
        record.log_metrics({"loss": 5.0}, 5)
        (new,) = read_points(tmp_path, first[-1].end)
    assert new.step == 5
