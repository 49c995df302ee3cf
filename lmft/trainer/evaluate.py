"""Describe what scoring a split gave, for training and `lmft evaluate` alike."""

import logging

import numpy as np
from transformers import PreTrainedTokenizerBase

from lmft.dataset.block_rule import find_rule
from lmft.dataset.split import Split
from lmft.dataset.token_stream import TokenStream, template_digest
from lmft.dataset.tokenizer import tokenizer_digest, unescape
from lmft.evaluation.result import (
    ALL_TOGETHER,
    ALONE,
    EACH_ALONE,
    FEW_DOCUMENTS,
    SOME_DOCUMENTS,
    Conditions,
    Result,
)
from lmft.evaluation.scoring import Scores
from lmft.evaluation.sums import Assessment, Sums, sum_by
from lmft.evaluation.token_bytes import lost_characters, measure_spans
from lmft.evaluation.windows import find_prefix, window_sizes
from lmft.objective import Objective
from lmft.runs.run import Run
from lmft.trainer.components import Components

logger = logging.getLogger(__name__)


def find_conditions(
    run: Run, split: Split, tokenizer: PreTrainedTokenizerBase, mask_draws: int = 1
) -> Conditions:
    """Return the conditions of an evaluation of this split, from digests only.

    Args:
        run: the run whose config is used.
        split: the split that is scored.
        tokenizer: the model's.
        mask_draws: number of fixed draws of masks that are scored (mlm).
    """
    config = run.config
    prefix = find_prefix(config.evaluation.prefix, tokenizer)
    context, stride = window_sizes(config.evaluation, config.dataset.block_size, prefix)
    rule = find_rule(vars(config.dataset), split)
    masks: int | str = 0 if config.objective.is_causal else mask_draws
    if config.evaluation.pseudo:
        masks = EACH_ALONE
    return Conditions(
        corpus=split.digest(),
        split=split.name,
        tokenizer=tokenizer_digest(tokenizer),
        context=context,
        stride=stride,
        separator=unescape(config.dataset.separator),
        objective=run.values["objective"],
        masks=masks,
        max_blocks=config.evaluation.max_blocks,
        prefix=unescape(config.evaluation.prefix),
        windows=config.evaluation.windows.value,
        learn=split.learn.value,
        template=template_digest(split, tokenizer),
        documents=ALONE if rule.of_documents else ALL_TOGETHER,
        long=rule.long.value,
    )


def describe_part(split: Split) -> tuple[str, ...]:
    """Return in words which part of the text is scored, if it is not all."""
    parts = ("without duplicates",) if split.drop_duplicates else ()
    if split.max_documents is None:
        return parts
    plural = "" if split.max_documents == 1 else "s"
    return (
        *parts,
        f"first {split.max_documents:,} document{plural}",
    )


def assess(
    run: Run,
    components: Components,
    split: Split,
    scores: Scores,
    mask_draws: int = 1,
    changes: tuple[str, ...] = (),
) -> Assessment:
    """Return the result of scoring a split: loss, interval, bits per byte, and so on.

    Args:
        run: the run whose config is used.
        components: its components.
        split: the split that was scored.
        scores: of its targets.
        mask_draws: number of fixed draws of masks in `scores` (mlm).
        changes: to the text that the dataset's name stands for, in words.
    """
    config, tokenizer = run.config, components.tokenizer
    stream = components.batches[split.name].blocks.stream
    spans = measure_spans(split, tokenizer, config.dataset.separator, stream)
    units = split.units()
    documents = units[np.searchsorted(stream.ends, scores.positions, side="right")]
    sums = {
        "document": sum_by(documents, int(units[-1]) + 1, scores, spans),
        "block": sum_by(scores.windows, int(scores.windows[-1]) + 1, scores, spans),
    }
    unit = choose_unit(sums, split.name)
    result = Result(
        loss=scores.loss,
        bytes=None if spans is None else int(spans.bytes[scores.positions].sum()),
        words=None if spans is None else int(spans.words[scores.positions].sum()),
        interval=sums[unit].interval(),
        unit_label=label_unit(config.objective, stream),
        unit=unit,
        units=int((sums[unit].targets > 0).sum()),
        conditions=find_conditions(run, split, tokenizer, mask_draws),
        corpus=config.dataset.name,
        changes=changes + describe_part(split),
        precision=components.hardware.precision.value,
        lost=lost_characters(split, tokenizer),
    )
    return Assessment(result, sums)


def label_unit(objective: Objective, stream: TokenStream) -> str:
    """Return what the perplexity counts: tokens, or those of completions alone."""
    label = objective.unit_label
    return label if stream.learnt is None else label.replace("token", "completion token", 1)


def choose_unit(sums: dict[str, Sums], split: str) -> str:
    """Return what is resampled for an interval: documents, or blocks if there are too few."""
    scored = int((sums["document"].targets > 0).sum())
    if scored < FEW_DOCUMENTS:
        return "block"
    if scored < SOME_DOCUMENTS:
        logger.warning(
            "The interval of the %s loss is from %d documents; with fewer than %d it is rough.",
            split,
            scored,
            SOME_DOCUMENTS,
        )
    return "document"
