"""Draw the figure of a sweep: the effect of each knob on the validation perplexity.

The seed is no knob to choose: jobs that differ only in seed are one point, by their mean loss.
"""

import math
import statistics
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lmft.metrics import TokenLoss
from lmft.output.plots import COLORS, as_svg, new_figure
from lmft.output.terminal import repr_text
from lmft.sweep.records import JobRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL = (3.6, 2.9)  # inches
COLUMNS = 3  # of panels
MOST_TICKS = 8
LONGEST_LABEL = 20  # characters


def draw_knobs(groups: list[list[JobRecord]]) -> dict[str, str]:
    """Return `knobs.svg`: a panel for each knob that varies, a color for each group of jobs.

    Empty if no knob varies among jobs with a finite perplexity.

    Args:
        groups: finished jobs; those of one group are comparable.
    """
    finite = [
        [job for job in average_seeds(group) if math.isfinite(perplexity(job))] for group in groups
    ]
    shown = [group for group in finite if group]
    jobs = sorted((job for group in shown for job in group), key=lambda job: job.number)
    values: dict[str, list[str]] = {}
    for job in jobs:
        for knob, value in job.knobs.items():
            values.setdefault(knob, []).append(value)
    varied = {knob: list(dict.fromkeys(v)) for knob, v in values.items() if len(set(v)) > 1}
    has_seeds = any("seed" in job.knobs for group in groups for job in group)
    unit = "validation perplexity" + (",\nmean over seeds" if has_seeds else "")
    return {"knobs.svg": _draw(varied, shown, unit)} if varied else {}


def average_seeds(jobs: list[JobRecord]) -> list[JobRecord]:
    """Return one job for those that differ only in seed, without the seed, with the mean loss."""
    settings: dict[str, list[JobRecord]] = {}
    for job in jobs:
        knobs = {knob: value for knob, value in job.knobs.items() if knob != "seed"}
        settings.setdefault(repr(knobs), []).append(replace(job, knobs=knobs))
    return [
        replace(seeds[0], loss=statistics.fmean(job.loss for job in seeds))
        for seeds in settings.values()
    ]


def _draw(varied: dict[str, list[str]], groups: list[list[JobRecord]], unit: str) -> str:
    columns = min(COLUMNS, len(varied))
    rows = math.ceil(len(varied) / columns)
    size = (PANEL[0] * columns, PANEL[1] * rows)
    with new_figure(size, rows, columns, sharey=True) as (figure, panels):
        for axes, (knob, values) in zip(panels, varied.items(), strict=False):
            positions = place_values(axes, values)
            for number, group in enumerate(groups):
                _draw_jobs(axes, knob, group, positions, COLORS[number % len(COLORS)])
            axes.set_xlabel(shorten(knob, 2 * LONGEST_LABEL))
        for axes in panels[len(varied) :]:
            axes.set_visible(False)
        for axes in panels[::columns]:
            axes.set_ylabel(unit)
        perplexities = [perplexity(job) for group in groups for job in group]
        if max(perplexities) > 10 * min(perplexities):
            panels[0].set_yscale("log")
        if len(varied) + len(groups) == 2:  # each value has one point
            return as_svg(figure)
        names = ["median", *(f"group {number}" for number in range(2, len(groups) + 1))]
        names[0] += ", group 1" if len(groups) > 1 else ""
        figure.legend(panels[0].lines[1::2], names, loc="outside lower center", ncols=COLUMNS)
        return as_svg(figure)


def place_values(axes: "Axes", values: list[str]) -> dict[str, float]:
    """Set up the x-axis for a knob's values; return the position of each on it.

    Numbers are placed by their size, on a logarithmic axis if they span more than a factor of 10.
    If a value is no number, all values are placed side by side.
    """
    parsed = [parse_number(value) for value in values]
    numbers = [number for number in parsed if number is not None]
    if len(numbers) < len(values):
        positions = {value: float(number) for number, value in enumerate(values)}
        axes.set_xlim(-0.5, len(values) - 0.5)
    else:
        positions = dict(zip(values, numbers, strict=True))
        if min(numbers) > 0 and max(numbers) > 10 * min(numbers):
            axes.set_xscale("log")
    if len(values) <= MOST_TICKS or len(numbers) < len(values):
        labels = [shorten(value, LONGEST_LABEL) for value in values]
        axes.set_xticks(list(positions.values()), labels)
        axes.set_xticks([], minor=True)
        crowded = sum(map(len, labels)) > 2 * LONGEST_LABEL
        axes.tick_params(axis="x", labelrotation=30 if crowded else 0)
    return positions


def _draw_jobs(
    axes: "Axes", knob: str, group: list[JobRecord], positions: dict[str, float], color: str
) -> None:
    """Draw a point for each job, and a line through the medians of jobs with the same value."""
    perplexities = defaultdict(list)
    for job in group:
        if knob in job.knobs:
            perplexities[positions[job.knobs[knob]]].append(perplexity(job))
    points = [(x, y) for x, ys in perplexities.items() for y in ys]
    medians = sorted((x, statistics.median(ys)) for x, ys in perplexities.items())
    for data, style in ((points, "o"), (medians, "-")):
        axes.plot(*np.reshape(data, (-1, 2)).T, style, color=color, markersize=4, linewidth=1)


def parse_number(value: str) -> float | None:
    """Return the finite number that a value stands for; None for any other value."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def perplexity(job: JobRecord) -> float:
    """Return the validation perplexity of a job."""
    return TokenLoss(job.loss, 1).perplexity


def shorten(text: str, most: int) -> str:
    """Return a text for a figure, cut to at most so many characters."""
    text = repr_text(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"
