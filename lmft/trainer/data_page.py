"""Describe what a run reads, and write it as a page into the run's folder."""

from lmft.config.schema import RunConfig
from lmft.dataset.batches import Batches
from lmft.dataset.overview.describe import Overview, describe
from lmft.dataset.overview.page import as_html
from lmft.runs.run_id import model_label
from lmft.trainer.evaluate import label_unit
from lmft.trainer.session import Session

PAGE = "data.html"
MOST = 1024  # tokens of a block that the page shows


def describe_data(config: RunConfig, batches: dict[str, Batches], most: int) -> Overview:
    """Describe the splits of a run; show at most `most` tokens of a block."""
    first = next(iter(batches.values()))
    return describe(
        f"{model_label(config.model)} on {config.dataset.name}",
        label_unit(config.objective, first.blocks.stream),
        batches,
        config.seed,
        config.trainer.shuffle,
        most,
    )


def write_data_page(session: Session) -> None:
    """Write the page, with blocks of the training text, to the run's folder and its tracker.

    What may be published, `checkpoint/`, has no training text.
    """
    if session.is_rank_zero:
        overview = describe_data(session.run.config, session.components.batches, MOST)
        session.log.log_text(as_html(overview), PAGE)
