"""The picture of a training: loss by step."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lmft.tracker.run_log import read_values

MOST_POINTS = 400  # of a line; more are averaged, so that the file stays small


def read_losses(folder: Path) -> dict[str, np.ndarray]:
    """Losses of the run in `folder`, by split: optimizer step and nats per target (N, 2).

    In arrays, since a long run has hundreds of thousands.
    """
    point = np.dtype((float, 2))
    return {
        split: np.fromiter(read_values(folder, f"{split}/loss"), point)
        for split in ("train", "validation")
    }


def draw_losses(losses: Mapping[str, np.ndarray], best_step: int) -> str:
    """An SVG of losses by split, as `read_losses` gives them; the best step is marked.

    The same losses give the same text.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 3.5))
    axes = figure.add_axes((0.09, 0.14, 0.89, 0.83))  # laying it out would take half the time
    for split, color, marker in (("train", "#9ab8d8", ""), ("validation", "#c44e52", "o")):
        steps, values = thin(losses[split])
        axes.plot(steps, values, color=color, marker=marker, markersize=4, label=split)
    axes.axvline(best_step, color="#888888", linewidth=0.8, linestyle=":", label="best")
    axes.set(xlabel="optimizer step", ylabel="loss, nats per target")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "lmft", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def thin(points: np.ndarray) -> np.ndarray:
    """Steps and values (2, N) of points (N, 2), neighbours averaged down to `MOST_POINTS`."""
    if len(points) <= MOST_POINTS:
        return points.T
    starts = np.linspace(0, len(points), MOST_POINTS, endpoint=False).astype(int)
    sizes = np.diff([*starts, len(points)])
    return np.add.reduceat(points, starts).T / sizes
