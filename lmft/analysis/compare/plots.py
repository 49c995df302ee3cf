"""Draw the figures of a comparison: intervals and loss curves, as SVG inside the HTML page."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lmft.analysis.compare.paired import LOSS
from lmft.analysis.compare.ranking import Ranking, label_run
from lmft.analysis.compare.run_results import ScoredRun
from lmft.analysis.compare.sentences import unit_of
from lmft.output.plots import COLORS, GRAY, as_svg_element, new_figure, thin
from lmft.output.terminal import repr_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Losses = dict[str, np.ndarray]  # of a run, by split: step and nats per target (N, 2)
WIDTH = 10.0  # inches
LONGEST_LABEL = 46  # characters
MOST_CURVES = len(COLORS)  # the best runs, each with a color of its own
SMOOTH_POINTS = 25  # of a training curve
STEPS, TOKENS = "optimizer steps", "tokens read in training"


def draw_intervals(ranking: Ranking) -> str:
    """Draw each run's value and its difference to the best, both with 95 % intervals."""
    height = 1.0 + 0.34 * len(ranking.runs)
    with new_figure((WIDTH, height), columns=2) as (figure, (left, right)):
        rows = {run.letter: -number for number, run in enumerate(ranking.runs)}
        for number, run in enumerate(ranking.runs):
            value, interval = ranking.measure.of(run), ranking.measure.interval(run)
            bounds = (interval.low, interval.high) if interval else None
            if ranking.measure is LOSS:
                value, bounds = _exp(value), bounds and (_exp(bounds[0]), _exp(bounds[1]))
            _draw_interval(left, value, bounds, rows[run.letter], COLORS[number % len(COLORS)])
        labels = [plot_label(run, ranking.knobs) for run in ranking.runs]
        left.set_yticks(list(rows.values()), labels)
        unit = unit_of(ranking)
        left.set_xlabel("perplexity, 95 %" if ranking.measure is LOSS else f"{unit}, 95 %")
        best = ranking.runs[0]
        right.axvline(0, color=GRAY, linewidth=1)
        right.plot([0], [rows[best.letter]], "o", color=COLORS[0], markersize=5)
        for pair in ranking.pairs:
            if pair.better is best:
                row, difference = rows[pair.worse.letter], pair.difference
                bounds = (difference.interval.low, difference.interval.high)
                _draw_interval(right, difference.mean, bounds, row, COLORS[-row % len(COLORS)])
        right.set_yticks(list(rows.values()), list(rows))
        right.set_xlabel(f"paired difference to {best.letter}, {unit}, 95 %")
        for axes in (left, right):
            axes.set_ylim(-len(rows) + 0.4, 0.6)
            axes.grid(False, axis="y")
        return as_svg_element(figure)


def draw_curves(ranking: Ranking, losses: dict[str, Losses]) -> str:
    """Draw training and validation loss by step; empty if no run has losses.

    By tokens too, where runs read different numbers of them in a step. Only the best runs are
    drawn, at most `MOST_CURVES`.

    Args:
        ranking: of the runs.
        losses: of each run, by its letter.
    """
    runs = [run for run in ranking.runs if len(losses[run.letter]["train"])][:MOST_CURVES]
    if not runs:
        return ""
    names = (STEPS, TOKENS) if len(set(map(tokens_per_step, runs))) > 1 else (STEPS,)
    legend = 0.24 * math.ceil(len(runs) / 2)
    with new_figure((WIDTH, 3.3 + legend), columns=len(names)) as (figure, panels):
        for axes, name in zip(panels, names, strict=True):
            for number, run in enumerate(runs):
                scale = 1 if name == STEPS else tokens_per_step(run)
                color = COLORS[number % len(COLORS)]
                label = plot_label(run, ranking.knobs)
                _draw_losses(axes, losses[run.letter], scale, color, label)
            axes.set_xlabel(name)
            axes.set_ylabel(f"loss, {unit_of(ranking)}")
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(_thousands)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        return as_svg_element(figure)


def tokens_per_step(run: ScoredRun) -> int:
    """Return the tokens read in each optimizer step (the last of an epoch may have fewer)."""
    return int(run.knobs["trainer.batch_size"]) * int(run.knobs["dataset.block_size"])


def plot_label(run: ScoredRun, knobs: list[str]) -> str:
    """Return the run's letter and knobs, shortened to fit into a figure."""
    text = repr_text(label_run(run, knobs, most=2))
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"


def _draw_interval(
    axes: "Axes", value: float, bounds: tuple[float, float] | None, row: int, color: str
) -> None:
    if bounds is not None:
        axes.plot(bounds, [row, row], color=color, linewidth=2, solid_capstyle="butt")
    axes.plot([value], [row], "o", color=color, markersize=5)


def _draw_losses(axes: "Axes", losses: Losses, scale: int, color: str, label: str) -> None:
    steps, values = thin(losses["train"], SMOOTH_POINTS)
    axes.plot(steps * scale, values, color=color, alpha=0.35, linewidth=0.9)
    if len(losses["validation"]):
        steps, values = losses["validation"].T
        axes.plot(steps * scale, values, "o-", color=color, markersize=3.5, label=label)


def _thousands(value: float, _: Any = None) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))
