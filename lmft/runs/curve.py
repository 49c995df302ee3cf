"""The loss curve of a run."""

from pathlib import Path
from typing import TYPE_CHECKING

from lmft.output.plots import COLORS, GRAY, new_figure, thin
from lmft.tracker.run_log import read_losses

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def loss_figure(folder: Path, best_step: int | None) -> "Figure":
    """Draw training and validation loss by step, with the best step marked.

    Args:
        folder: of the run.
        best_step: of the lowest validation loss; None: it is not known yet.
    """
    from matplotlib.ticker import MaxNLocator

    losses = read_losses(folder)
    with new_figure((7, 3.5), layout=None) as (figure, (axes,)):
        axes.set_position((0.09, 0.14, 0.89, 0.83))
        if len(losses["train"]):
            axes.plot(*thin(losses["train"]), color=COLORS[0], alpha=0.35, label="training")
        if len(losses["validation"]):
            points = thin(losses["validation"])
            axes.plot(*points, "o-", color=COLORS[1], markersize=4, label="validation")
        if best_step is not None:
            axes.axvline(best_step, color=GRAY, linewidth=0.8, linestyle=":", label="best")
        axes.set(xlabel="optimizer step", ylabel="loss, nats per target")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
        return figure
