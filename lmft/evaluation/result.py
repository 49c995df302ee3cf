"""The result of an evaluation: loss and perplexity with interval, unit, label and fingerprint."""

import math
from dataclasses import dataclass
from typing import Any

from lmft.config.schema import FORMERLY
from lmft.evaluation.bootstrap import Interval
from lmft.metrics import TokenLoss
from lmft.output.terminal import counted
from lmft.storage.hashing import digest

FEW_DOCUMENTS = 5  # with fewer, the interval is over blocks
ALL_TOGETHER, ALONE = "together", "alone"  # windows are cut from the stream, or of each document
FORMER_CONDITIONS = {  # conditions that are younger than some results -> how those were scored
    **{name: FORMERLY[f"evaluation.{name}"] for name in ("prefix", "windows")},
    "learn": FORMERLY["dataset.learn"],
    "template": None,
    "documents": ALL_TOGETHER,
    "long": FORMERLY["dataset.long"],
}
EACH_ALONE = "each alone"  # every token is hidden once, alone
SOME_DOCUMENTS = 20  # with fewer, the interval is approximate
WIDEST = math.log(100)  # nats; an interval that is wider says nothing, nor does a loss below 0
NO_INTERVAL = "too few documents for an interval"


def telling_interval(low: float | None, high: float | None, units: int) -> Interval | None:
    """Return the interval of a loss; None if it says nothing.

    Args:
        low: its lower end, in nats per target; None: there is no interval.
        high: its upper end.
        units: how many documents or blocks it is from.
    """
    if low is None or high is None or units < FEW_DOCUMENTS:
        return None
    return Interval(low, high) if low >= 0 and high - low <= WIDEST else None


@dataclass(frozen=True)
class Conditions:
    """The conditions that must be equal for two losses to be comparable."""

    corpus: str  # a digest of the text, independent of its split into documents
    split: str
    tokenizer: str  # a digest
    context: int
    stride: int
    separator: str
    objective: dict[str, Any]
    masks: int | str  # number of fixed draws, or EACH_ALONE (mlm); 0: nothing is hidden (clm)
    max_blocks: int | None
    prefix: str
    windows: str
    learn: str = "auto"  # which tokens are targets
    template: str | None = None  # a digest; of chats
    documents: str = ALL_TOGETHER
    long: str = "split"  # what becomes of documents that are longer than a window

    def as_dict(self) -> dict[str, Any]:
        """Return all conditions but those that are as in results from before they existed."""
        return {
            name: value
            for name, value in vars(self).items()
            if name not in FORMER_CONDITIONS or value != FORMER_CONDITIONS[name]
        }

    @property
    def fingerprint(self) -> str:
        """A hash of all conditions."""
        return digest(self.as_dict())


@dataclass(frozen=True)
class Result:
    """A model's loss on a split, and the conditions of its evaluation."""

    loss: TokenLoss
    bytes: int | None  # of the scored tokens in the source text
    words: int | None
    interval: Interval | None  # of the loss, 95 %, in nats per target
    unit_label: str  # of the objective: what the perplexity counts
    unit: str  # what the bootstrap resampled: document or block
    units: int  # how many of them
    conditions: Conditions
    corpus: str  # the dataset's name
    changes: tuple[str, ...]  # to the text that this name stands for, in words
    precision: str
    lost: float  # share of the text's characters that the tokenizer loses

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of source text: comparable across tokenizers."""
        return self.loss.nats / self.bytes / math.log(2) if self.bytes else None

    @property
    def word_perplexity(self) -> float | None:
        """exp(nats per word of source text)."""
        return TokenLoss(self.loss.nats, self.words).perplexity if self.words else None

    @property
    def label(self) -> str:
        """The perplexity and the conditions of its evaluation, in one line."""
        conditions = self.conditions
        interval = f" [{NO_INTERVAL}]"
        ends = self.interval
        if ends and telling_interval(ends.low, ends.high, self.units):
            low, high = _exp(ends.low), _exp(ends.high)
            interval = f" [{low:,.2f}, {high:,.2f} by {self.unit}]"
        unit = self.unit_label
        if conditions.masks == EACH_ALONE:
            unit = (
                f"pseudo, {self.unit_label.partition(',')[0].replace('hidden ', '')} hidden alone"
            )
        elif conditions.masks not in (0, 1):
            unit += f", {conditions.masks} draws"
        changes = f" ({', '.join(self.changes)})" if self.changes else ""
        return " · ".join(
            [
                f"perplexity {self.loss.perplexity:,.2f}{interval}",
                unit,
                f"{self.corpus} {conditions.split}{changes}",
                *_describe_windows(conditions),
                self.precision,
                f"{self.loss.targets:,} targets",
                *([f"tokenizer loses {self.lost:.1%} of characters"] if self.lost else []),
            ]
        )

    def as_metrics(self) -> dict[str, float]:
        """Return all numbers by metric name."""
        metrics = self.loss.as_dict()
        optional: dict[str, float | None] = {
            "lost_characters": self.lost or None,
            "bits_per_byte": self.bits_per_byte,
            "word_perplexity": self.word_perplexity,
            "bytes": self.bytes,
            "words": self.words,
        }
        if self.interval is not None:
            optional |= {"loss_low": self.interval.low, "loss_high": self.interval.high}
        return metrics | {name: value for name, value in optional.items() if value is not None}

    def as_tags(self) -> dict[str, str]:
        """Return the tags that identify the result in MLflow."""
        return {"label": self.label, "fingerprint": self.conditions.fingerprint}

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of result.json."""
        return self.as_metrics() | {
            "label": self.label,
            "interval_by": self.unit,
            "units": self.units,
            "fingerprint": self.conditions.fingerprint,
            "conditions": self.conditions.as_dict(),
            "precision": self.precision,
        }


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def _describe_windows(conditions: Conditions) -> list[str]:
    """Return in words what the model reads: which windows, and what is between documents."""
    windows = [f"context {conditions.context}", f"stride {conditions.stride}"]
    if conditions.max_blocks is not None:
        windows.insert(0, f"first {counted(conditions.max_blocks, 'block')}")
    if conditions.windows != "strided":
        windows.append(f"{conditions.windows} windows")
    if conditions.prefix != "none":
        prefix = "BOS" if conditions.prefix == "bos" else repr(conditions.prefix)
        windows.append(f"after {prefix}")
    separator = {"none": "no separator", "eos": "eos between documents"}.get(
        conditions.separator, f"separator {conditions.separator!r}"
    )
    if conditions.documents == ALONE:
        long = {"truncate": ", longer ones truncated", "drop": ", longer ones left out"}
        windows.append(f"each document alone{long.get(conditions.long, '')}")
    return [*windows, separator]
