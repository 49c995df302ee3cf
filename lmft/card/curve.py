"""The picture of a training: loss by step."""

import io
from collections.abc import Mapping

import numpy as np

MOST_POINTS = 400  # of a line; more are averaged, so that the file stays small


def draw_losses(losses: Mapping[str, Mapping[int, float]], best_step: int) -> str:
    """An SVG of losses, in nats per target, by split and optimizer step; the best step is marked.

    The same losses give the same text.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 3.5))
    axes = figure.add_axes((0.09, 0.14, 0.89, 0.83))  # laying it out would take half the time
    for split, color, marker in (("train", "#9ab8d8", ""), ("validation", "#c44e52", "o")):
        steps, values = thin(losses.get(split, {}))
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


def thin(points: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values (N,), neighbours averaged down to at most `MOST_POINTS`."""
    steps, values = (np.array(list(some), dtype=float) for some in (points, points.values()))
    if len(steps) <= MOST_POINTS:
        return steps, values
    starts = np.linspace(0, len(steps), MOST_POINTS, endpoint=False).astype(int)
    sizes = np.diff([*starts, len(steps)])
    return np.add.reduceat(steps, starts) / sizes, np.add.reduceat(values, starts) / sizes
