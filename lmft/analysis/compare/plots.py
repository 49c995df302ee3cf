"""Pictures of a comparison, as SVG to stand inside a page: curves of loss, intervals."""

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lmft.analysis.compare.paired import LOSS
from lmft.analysis.compare.ranking import Ranking, describe
from lmft.analysis.compare.run_results import Run
from lmft.analysis.compare.sentences import unit_of
from lmft.output.terminal import repr_text
from lmft.tracker.mlflow_query import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f4f24", "#555555")

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "lmft",  # the same picture, the same bytes
    "text.parse_math": False,  # a $ in a name is a $
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "axes.edgecolor": "#888888",
    "axes.formatter.useoffset": False,
    "legend.frameon": False,
}

MOST_POINTS = 300  # of a curve

WIDTH = 10.0  # inches

SHORT = 46  # characters of a name beside a picture


def forest(ranking: Ranking) -> str:
    """Each run's value with its 95 % interval, and each one's difference to the best."""
    with drawing(1, 2, 1.0 + 0.34 * len(ranking.runs)) as (figure, (left, right)):
        rows = {run.letter: -number for number, run in enumerate(ranking.runs)}
        for number, run in enumerate(ranking.runs):
            value, interval = ranking.measure.of(run), ranking.measure.interval(run)
            bounds = (interval.low, interval.high) if interval else None
            if ranking.measure is LOSS:
                value, bounds = _exp(value), bounds and (_exp(bounds[0]), _exp(bounds[1]))
            _interval(left, value, bounds, rows[run.letter], COLORS[number % len(COLORS)])
        names = [short_name(run, ranking.knobs) for run in ranking.runs]
        left.set_yticks(list(rows.values()), names)
        unit = unit_of(ranking)
        left.set_xlabel("perplexity, 95 %" if ranking.measure is LOSS else f"{unit}, 95 %")
        best = ranking.runs[0]
        right.axvline(0, color="#888888", linewidth=1)
        right.plot([0], [rows[best.letter]], "o", color=COLORS[0], markersize=5)
        for pair in ranking.pairs:
            if pair.better is best:
                row, found = rows[pair.worse.letter], pair.difference
                bounds = (found.interval.low, found.interval.high)
                _interval(right, found.mean, bounds, row, COLORS[-row % len(COLORS)])
        right.set_yticks(list(rows.values()), list(rows))
        right.set_xlabel(f"paired difference to {best.letter}, {unit}, 95 %")
        for axes in (left, right):
            axes.set_ylim(-len(rows) + 0.4, 0.6)
            axes.grid(False, axis="y")
        return as_svg(figure)


def curves(ranking: Ranking, found: dict[str, dict[str, Curve]]) -> str:
    """Training and validation loss by step and by tokens; nothing where no run has curves.

    `found` has each run's curves by its letter.
    """
    runs = [run for run in ranking.runs if "train/loss" in found.get(run.letter, {})]
    if not runs:
        return ""
    legend = 0.24 * math.ceil(len(runs) / 2)
    with drawing(1, 2, 3.3 + legend) as (figure, panels):
        for axes, name in zip(panels, ("optimizer steps", "tokens read in training"), strict=True):
            for number, run in enumerate(runs):
                scale = 1 if name == "optimizer steps" else tokens_a_step(run)
                color = COLORS[number % len(COLORS)]
                _curves(axes, found[run.letter], scale, color, short_name(run, ranking.knobs))
            axes.set_xlabel(name)
            axes.set_ylabel(f"loss, {unit_of(ranking)}")
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(_thousands)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        return as_svg(figure)


def tokens_a_step(run: Run) -> int:
    """Tokens read in each optimizer step (the last of an epoch may have fewer)."""
    return int(run.knobs["trainer.batch_size"]) * int(run.knobs["dataset.block_size"])


def short_name(run: Run, knobs: list[str]) -> str:
    """The run's letter and knobs, as long as a picture has room for."""
    text = repr_text(describe(run, knobs, most=2))
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"


def thinned(curve: Curve) -> Curve:
    """At most MOST_POINTS points, each the mean of as many neighbours."""
    size = math.ceil(len(curve.steps) / MOST_POINTS)
    parts = [slice(start, start + size) for start in range(0, len(curve.steps), size)]
    means = [sum(curve.values[part]) / len(curve.values[part]) for part in parts]
    return Curve([curve.steps[part][-1] for part in parts], means)


@contextmanager
def drawing(rows: int, columns: int, height: float) -> Iterator[tuple["Figure", list["Axes"]]]:
    """A figure that no window ever shows."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def as_svg(figure: "Figure") -> str:
    """The `<svg>` element alone: no prolog, no addresses, as wide as its place."""
    text = io.StringIO()
    figure.savefig(
        text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg, count=2)
    return re.sub(r' width="[^"]*pt"| height="[^"]*pt"', "", svg, count=2)


def _interval(
    axes: "Axes", value: float, bounds: tuple[float, float] | None, row: int, color: str
) -> None:
    if bounds is not None:
        axes.plot(bounds, [row, row], color=color, linewidth=2, solid_capstyle="butt")
    axes.plot([value], [row], "o", color=color, markersize=5)


def _curves(axes: "Axes", found: dict[str, Curve], scale: int, color: str, name: str) -> None:
    for key, curve in found.items():
        validation = key.startswith("validation")
        curve = curve if validation else thinned(curve)
        places = [step * scale for step in curve.steps]
        if validation:
            axes.plot(places, curve.values, "o-", color=color, markersize=3.5, label=name)
        else:
            axes.plot(places, curve.values, color=color, alpha=0.35, linewidth=0.9)


def _thousands(value: float, _: Any = None) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))
