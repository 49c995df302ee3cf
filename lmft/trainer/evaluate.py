"""Describe what scoring a split gave, for training and `lmft evaluate` alike."""

import logging

import numpy as np
from transformers import PreTrainedTokenizerBase

from lmft.dataset.splits import Split
from lmft.dataset.tokenizer import tokenizer_digest, unescape
from lmft.evaluation.result import (
    EACH_ALONE,
    FEW_DOCUMENTS,
    SOME_DOCUMENTS,
    Assessment,
    Conditions,
    Result,
    sum_by,
)
from lmft.evaluation.scoring import Scores
from lmft.evaluation.token_bytes import lost_characters, measure_spans
from lmft.evaluation.windows import find_prefix, window_sizes
from lmft.runs.run import Run
from lmft.trainer.components import Components

logger = logging.getLogger(__name__)


def find_conditions(run: Run, split: Split, tokenizer: PreTrainedTokenizerBase) -> Conditions:
    """Return the conditions of an evaluation of this split, from digests only."""
    config = run.config
    prefix = find_prefix(config.evaluation.prefix, tokenizer)
    context, stride = window_sizes(config.evaluation, config.dataset.block_size, prefix)
    masks: int | str = 0 if config.objective.is_causal else config.evaluation.mask_draws
    if config.evaluation.pseudo:
        masks = EACH_ALONE
    return Conditions(
        corpus=split.digest(),
        split=split.name,
        tokenizer=tokenizer_digest(tokenizer),
        context=context,
        stride=stride,
        separator=config.dataset.separator,
        objective=run.values["objective"],
        masks=masks,
        max_blocks=config.evaluation.max_blocks,
        prefix=unescape(config.evaluation.prefix),
        windows=config.evaluation.windows.value,
    )


def assess(run: Run, components: Components, split: Split, scores: Scores) -> Assessment:
    """Return the result of scoring a split: loss, interval, bits per byte, and so on."""
    config, tokenizer = run.config, components.tokenizer
    stream = components.batches[split.name].blocks.stream
    spans = measure_spans(split, tokenizer, config.dataset.separator, stream)
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
        unit_label=config.objective.unit_label,
        unit=unit,
        units=int((sums[unit].targets > 0).sum()),
        conditions=find_conditions(run, split, tokenizer),
        corpus=config.dataset.name,
        precision=components.hardware.precision.value,
        lost=lost_characters(split, tokenizer),
    )
    return Assessment(result, sums)
