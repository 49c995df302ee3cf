"""The tables of a comparison as plain text cells, for terminal, Markdown and HTML."""

import math
from dataclasses import dataclass

from lmft.analysis.compare.paired import BITS, LOSS
from lmft.analysis.compare.ranking import Comparison, Ranking
from lmft.analysis.compare.run_results import ScoredRun
from lmft.analysis.compare.sentences import count_tests, unit_of, verdict
from lmft.evaluation.result import WIDEST
from lmft.output.terminal import repr_text

MOST_KNOBS = 4  # up to which each has a column of its own
MERGED = "what differs"  # the column of all knobs, if there are more
LONGEST_VALUE = 48  # characters
MISSING = "–"
SEEDS = "two seeds of one setting"


@dataclass(frozen=True)
class Table:
    """Cells of text."""

    header: list[str]
    rows: list[list[str]]
    numbers: frozenset[int]  # columns of numbers, which are right-aligned


def ranking_table(ranking: Ranking) -> Table:
    """Return one row per run, best first: differing knobs, and numbers, one with 95 % interval."""
    bytewise = ranking.measure is BITS
    numbers = ["bits per byte"] if bytewise else ["perplexity", f"loss, {unit_of(ranking)}"]
    if not bytewise and any(BITS.name in run.result for run in ranking.runs):
        numbers.append("bits per byte")
    if any(run.test for run in ranking.runs):
        numbers.append(f"test {numbers[0]}")
    columns, knobs = knob_cells(ranking.runs, ranking.knobs)
    rows = [
        [run.letter, *cells, *measure_cells(run, numbers, bytewise)]
        for run, cells in zip(ranking.runs, knobs, strict=True)
    ]
    header = ["run", *columns, *numbers]
    return Table(header, rows, frozenset(range(1 + len(columns), len(header))))


def knob_cells(runs: list[ScoredRun], names: list[str]) -> tuple[list[str], list[list[str]]]:
    """Return the columns of knobs, and each run's cells in them; many knobs share one column."""
    values = [[knob_text(run, name) for name in names] for run in runs]
    if len(names) <= MOST_KNOBS:
        return names, values
    merged = [
        [f"{name}={value}" for name, value in zip(names, of_run, strict=True) if value != MISSING]
        for of_run in values
    ]
    return [MERGED], [["\n".join(shown)] for shown in merged]


def measure_cells(run: ScoredRun, columns: list[str], bytewise: bool) -> list[str]:
    """Return the cells of a run's measures."""
    measure = BITS if bytewise else LOSS
    interval = measure.interval(run)
    bounds = (interval.low, interval.high) if interval else None
    test = measure.of_test(run)
    if bytewise:
        beside = [MISSING if test is None else f"{test:.4f}"] if len(columns) > 1 else []
        return [with_bounds(measure.of(run), bounds, ".4f"), *beside]
    exact = bounds and (_exp(bounds[0]), _exp(bounds[1]))
    cells = [
        with_bounds(float(run.result["perplexity"]), exact, ",.2f"),
        f"{measure.of(run):.4f}",
    ]
    if "bits per byte" in columns:
        cells.append(f"{BITS.of(run):.4f}" if BITS.name in run.result else MISSING)
    if "test perplexity" in columns:
        cells.append(f"{run.test['perplexity']:,.2f}" if run.test else MISSING)
    return cells


def pairs_table(ranking: Ranking) -> Table:
    """Return one row per pair: the difference with its interval, the p-value and the verdict."""
    ratio = ["perplexity ratio"] if ranking.measure is LOSS else []
    verdicts = f"verdict over {ranking.pairs[0].unit}s"
    header = ["pair", f"difference, {unit_of(ranking)}", *ratio, "p", verdicts]
    rows, tests = [], count_tests(ranking)
    for pair in ranking.pairs:
        difference = pair.difference
        low, high = difference.interval.low, difference.interval.high
        cells = [f"{pair.worse.letter} − {pair.better.letter}"]
        cells.append(with_bounds(difference.mean, (low, high), ".4f"))
        if ratio:
            ratios = (_exp(low), _exp(high)) if high - low <= WIDEST else None
            cells.append(with_bounds(_exp(difference.mean), ratios, ".4f"))
        said = SEEDS if pair.same_settings else verdict(difference.p_value, tests)
        rows.append([*cells, f"{difference.p_value:.4f}", said])
    return Table(header, rows, frozenset(range(1, 2 + len(ratio) + 1)))


def runs_table(comparison: Comparison) -> Table:
    """Return the folder of each letter, and the label of its result."""
    rows = [
        [run.letter, repr_text(str(run.folder)), repr_text(str(run.result["label"]))]
        for run in comparison.runs
    ]
    return Table(["run", "folder", "number"], rows, frozenset())


def knob_text(run: ScoredRun, name: str) -> str:
    """Return a knob's value on one line; the middle of a long one is cut out."""
    if name not in run.knobs:
        return MISSING
    text = repr_text(str(run.knobs[name]))
    if len(text) <= LONGEST_VALUE:
        return text
    return f"{text[: LONGEST_VALUE // 2 - 1]}…{text[-LONGEST_VALUE // 2 :]}"


def with_bounds(value: float, bounds: tuple[float, float] | None, form: str) -> str:
    """Return a number and its interval."""
    text = format(value, form)
    return f"{text} [{format(bounds[0], form)}, {format(bounds[1], form)}]" if bounds else text


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))
