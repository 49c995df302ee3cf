"""The benchmark's figures, tables and files. No speed is asserted."""

import pytest

from benchmarks.duel import speeds
from benchmarks.figures import Figure, Target
from benchmarks.limit import operations
from benchmarks.rows import all_rows
from benchmarks.store import Store
from benchmarks.table import as_markdown
from benchmarks.turns import Job


def test_a_value_is_the_ratio_of_medians_and_its_spread_that_of_pairs():
    figure = Figure("speed", "tokens/s", [4.0, 6.0, 8.0], [2.0, 2.0, 4.0])
    assert figure.value == 3.0 and figure.spread == (2.0, 3.0)
    assert Figure("step", "s", [4.0, 9.0, 8.0]).value == 8.0


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        (Target(2.0), "yes"),
        (Target(2.1), "NO"),
        (Target(1.5, 2.0), "yes, *"),
        (Target(1.5, 2.5), "yes"),
        (Target(2.0, at_most=True), "yes"),
        (Target(1.9, at_most=True), "NO"),
        (Target(1.5, precision="bf16"), ""),
    ],
)
def test_a_target_is_reached_or_not_but_not_judged_in_another_precision(target, verdict):
    assert Figure("speed", "tokens/s", [4.0], [2.0], target).verdict == verdict


def test_a_row_is_kept_for_its_commit_and_machine_and_for_as_many_pairs(tmp_path):
    figure = Figure("speed", "tokens/s", [4.0], [2.0], Target(1.5, 2.0))
    Store(tmp_path / "bench.json").put("row", 3, [figure])
    again = Store(tmp_path / "bench.json")
    assert again.has("row", 3) and not again.has("row", 4) and not again.has("other", 1)
    assert again.rows() == {"row": (3, [figure])}
    assert "| row | speed, tokens/s | 3 | 4 | 2 | 2 |" in as_markdown(again, ["row"])
    kept = (tmp_path / "bench.json").read_text()
    (tmp_path / "bench.json").write_text(kept.replace(again.context["commit"], "another"))
    assert not Store(tmp_path / "bench.json").rows()


def test_turns_of_a_pair_are_one_speed():
    job = Job("model", scratch=True, block=128, batch=2, precision="fp32")
    assert speeds(job, [{"seconds": s} for s in (1.0, 3.0, 2.0, 2.0)], 2) == [128.0, 128.0]


def test_operations_are_those_of_the_products_of_a_step():
    # One layer of width 2: two attention products of 2 operations, three times over, half of them.
    assert operations(10, layers=1, hidden=2, block=4, tokens=8) == 8 * (60 + 48)


def test_where_bf16_is_emulated_rows_measure_fp32_and_their_targets_are_set_aside():
    for row in all_rows("fp32").values():
        assert "bf16" not in row.name
    targets = all_rows("fp32")["1024-fp32-vs-fp32"].measure.args[-1]
    assert targets["speed"].judge(0.0) == "" and str(targets["speed"]).endswith("in bf16)")
    assert all_rows("fp32")["128-fp32-vs-fp32"].measure.args[-1]["speed"].judge(0.0) == "NO"
