"""Score a split and describe the result, for training and `lmft evaluate` alike."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from lmft.config.schema import RunConfig
from lmft.dataset.splits import Split
from lmft.dataset.tokenizer import tokenizer_digest
from lmft.evaluation.result import (
    FEW_DOCUMENTS,
    SOME_DOCUMENTS,
    Assessment,
    Conditions,
    Result,
    sum_by,
)
from lmft.evaluation.scoring import Scores, Windows, cut_windows, evaluate
from lmft.evaluation.token_bytes import lost_characters, measure_spans
from lmft.trainer.components import Components

logger = logging.getLogger(__name__)


def score(
    split: str,
    config: RunConfig,
    components: Components,
    draw: int = 0,
    advance: Callable[[int], None] = lambda windows: None,
) -> Scores:
    """Score every target of a split, as `config.evaluation` says."""
    windows = windows_of(split, config, components)
    return evaluate(
        components.network,
        components.batches[split],
        components.hardware,
        windows,
        draw,
        config.evaluation.pseudo,
        advance,
    )


def windows_of(split: str, config: RunConfig, components: Components) -> Windows:
    """Return the windows in which a split is scored."""
    batches = components.batches[split]
    tokens = len(batches.blocks.stream.ids)
    return cut_windows(tokens, config.evaluation, batches.blocks.size, batches.objective)


def find_conditions(
    split: Split, config: RunConfig, values: dict[str, Any], tokenizer: Any
) -> Conditions:
    """Return the conditions of an evaluation of this split, from digests only."""
    context = config.evaluation.context or config.dataset.block_size
    masks: int | str = 0 if config.objective.target_shift else config.evaluation.mask_draws
    if config.evaluation.pseudo:
        masks = "each alone"
    return Conditions(
        corpus=split.digest(),
        split=split.name,
        tokenizer=tokenizer_digest(tokenizer),
        context=context,
        stride=config.evaluation.stride or context,
        separator=config.dataset.separator,
        objective=values["objective"],
        masks=masks,
        max_blocks=config.evaluation.max_blocks,
    )


def assess(
    split: Split,
    scores: Scores,
    config: RunConfig,
    values: dict[str, Any],
    components: Components,
) -> Assessment:
    """Return the result of scoring a split: loss, interval, bits per byte, and so on."""
    stream = components.batches[split.name].blocks.stream
    spans = measure_spans(split, components.tokenizer, config.dataset.separator, stream)
    units = split.units()
    documents = units[np.searchsorted(stream.ends, scores.positions, side="right")]
    sums = {
        "document": sum_by(documents, int(units[-1]) + 1, scores, spans),
        "block": sum_by(scores.windows, int(scores.windows[-1]) + 1, scores, spans),
    }
    scored = int((sums["document"].targets > 0).sum())
    unit = "document" if scored >= FEW_DOCUMENTS else "block"
    if unit == "document" and scored < SOME_DOCUMENTS:
        logger.warning(
            "The interval of the %s loss is from %d documents; with fewer than %d it is rough.",
            split.name,
            scored,
            SOME_DOCUMENTS,
        )
    result = Result(
        loss=scores.loss,
        bytes=None if spans is None else int(spans.bytes[scores.positions].sum()),
        words=None if spans is None else int(spans.words[scores.positions].sum()),
        interval=sums[unit].interval(),
        unit=unit,
        units=int((sums[unit].targets > 0).sum()),
        conditions=find_conditions(split, config, values, components.tokenizer),
        corpus=config.dataset.name,
        precision=components.hardware.precision.value,
        lost=lost_characters(split, components.tokenizer),
    )
    return Assessment(result, sums)
