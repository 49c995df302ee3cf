"""The tables of a comparison as plain cells, the same for terminal, Markdown and page."""

import math
from dataclasses import dataclass

from lmft.analysis.compare.paired import BITS, LOSS
from lmft.analysis.compare.ranking import Comparison, Ranking
from lmft.analysis.compare.run_results import Run
from lmft.analysis.compare.sentences import unit_of, verdict
from lmft.output.terminal import repr_text

MOST_KNOBS = 4  # each in a column of its own

MERGED = "what differs"

LONGEST = 48  # characters of a value


@dataclass(frozen=True)
class Table:
    """Cells of text; numbers are right-aligned."""

    header: list[str]
    rows: list[list[str]]
    numbers: frozenset[int]  # the columns that hold them


def ranking_table(ranking: Ranking) -> Table:
    """One run a row, best first: the knobs that differ, and its numbers with 95 % intervals."""
    bytewise = ranking.measure is BITS
    numbers = ["bits per byte"] if bytewise else ["perplexity", f"loss, {unit_of(ranking)}"]
    if not bytewise and any(BITS.name in run.result for run in ranking.runs):
        numbers.append("bits per byte")
    kept = ranking.knobs
    columns = kept if len(kept) <= MOST_KNOBS else [MERGED]
    rows = []
    for run in ranking.runs:
        values = [value_text(run, name) for name in kept]
        if columns != kept:
            shown = [f"{name}={v}" for name, v in zip(kept, values, strict=True) if v != "–"]
            values = ["\n".join(shown)]
        rows.append([run.letter, *values, *numbers_of(run, numbers, bytewise)])
    header = ["run", *columns, *numbers]
    first = 1 + len(columns)
    return Table(header, rows, frozenset(range(first, len(header))))


def numbers_of(run: Run, columns: list[str], bytewise: bool) -> list[str]:
    """The cells of a run's measures."""
    measure = BITS if bytewise else LOSS
    interval = measure.interval(run)
    bounds = (interval.low, interval.high) if interval else None
    if bytewise:
        return [with_bounds(measure.of(run), bounds, ".4f")]
    exact = (math.exp(bounds[0]), math.exp(bounds[1])) if bounds and bounds[1] < 700 else None
    cells = [
        with_bounds(float(run.result["perplexity"]), exact, ",.2f"),
        with_bounds(measure.of(run), bounds, ".4f"),
    ]
    if "bits per byte" in columns:
        cells.append(f"{BITS.of(run):.4f}" if BITS.name in run.result else "–")
    return cells


def pairs_table(ranking: Ranking) -> Table:
    """One pair a row: the difference with its interval, its p-value and the verdict."""
    ratio = ["perplexity ratio"] if ranking.measure is LOSS else []
    header = ["pair", f"difference, {unit_of(ranking)}", *ratio, "p", "verdict"]
    rows = []
    for pair in ranking.pairs:
        found = pair.difference
        low, high = found.interval.low, found.interval.high
        cells = [f"{pair.worse.letter} − {pair.better.letter}"]
        cells.append(with_bounds(found.mean, (low, high), ".4f"))
        if ratio:
            cells.append(with_bounds(*_exp(found.mean, low, high), ".4f"))
        rows.append([*cells, f"{found.p_value:.4f}", verdict(pair, len(ranking.pairs))])
    return Table(header, rows, frozenset(range(1, 2 + len(ratio) + 1)))


def runs_table(comparison: Comparison) -> Table:
    """Which letter is which folder, and the label of its number."""
    rows = [
        [run.letter, repr_text(str(run.folder)), repr_text(str(run.result["label"]))]
        for run in comparison.runs
    ]
    return Table(["run", "folder", "number"], rows, frozenset())


def value_text(run: Run, name: str) -> str:
    """A knob's value, on one line; a long one without its middle."""
    if name not in run.knobs:
        return "–"
    text = repr_text(str(run.knobs[name]))
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST // 2 - 1]}…{text[-LONGEST // 2 :]}"


def with_bounds(value: float, bounds: tuple[float, float] | None, form: str) -> str:
    """A number and its interval."""
    text = format(value, form)
    return f"{text} [{format(bounds[0], form)}, {format(bounds[1], form)}]" if bounds else text


def _exp(mean: float, low: float, high: float) -> tuple[float, tuple[float, float]]:
    return math.exp(mean), (math.exp(low), math.exp(min(high, 700.0)))
