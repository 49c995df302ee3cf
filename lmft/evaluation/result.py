"""A number that can be trusted: loss and perplexity with interval, unit, label and fingerprint."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmft.evaluation.bootstrap import Interval, bootstrap_interval
from lmft.metrics import TokenLoss
from lmft.storage.atomic import new_file
from lmft.storage.hashing import digest

if TYPE_CHECKING:
    from lmft.evaluation.scoring import Scores
    from lmft.evaluation.token_bytes import Spans

FEW_DOCUMENTS = 5  # below, the interval is over blocks

SOME_DOCUMENTS = 20  # below, it is rough


@dataclass(frozen=True)
class Conditions:
    """What must be equal for two losses to be comparable."""

    corpus: str  # a digest of the text, however it is split into documents
    split: str
    tokenizer: str  # a digest
    context: int
    stride: int
    separator: str
    objective: dict[str, Any]
    masks: int | str  # frozen draws, or how else tokens are hidden (mlm)
    max_blocks: int | None

    @property
    def fingerprint(self) -> str:
        """A hash of them all."""
        return digest(vars(self))


@dataclass(frozen=True)
class Result:
    """A model's loss on a split, with all that makes it comparable."""

    loss: TokenLoss
    bytes: int | None  # of the scored tokens in the source text
    words: int | None
    interval: Interval | None  # of the loss, 95 %, in nats per target
    unit: str  # that was resampled: document or block
    units: int
    conditions: Conditions
    corpus: str  # the dataset's name
    precision: str
    lost: float  # share of the text's characters that the tokenizer does not keep

    @property
    def bits_per_byte(self) -> float | None:
        """Nats over bytes, in bits: comparable across tokenizers."""
        return self.loss.nats / self.bytes / math.log(2) if self.bytes else None

    @property
    def word_perplexity(self) -> float | None:
        """exp(nats per word)."""
        return TokenLoss(self.loss.nats, self.words).perplexity if self.words else None

    @property
    def label(self) -> str:
        """The number and what it means, in one line."""
        c = self.conditions
        interval = ""
        if self.interval is not None:
            low, high = (_exp(bound) for bound in (self.interval.low, self.interval.high))
            interval = f" [{low:,.2f}, {high:,.2f} by {self.unit}]"
        separator = {"none": "no separator", "eos": "eos between documents"}.get(
            c.separator, f"separator {c.separator!r}"
        )
        unit = "per token"
        if "mask_fraction" in c.objective:
            unit = f"per hidden token, {c.objective['mask_fraction']:.0%} hidden"
        if c.masks == "each alone":
            unit = "pseudo, per token hidden alone"
        return " · ".join(
            [
                f"perplexity {self.loss.perplexity:,.2f}{interval}",
                unit,
                f"{self.corpus} {c.split}",
                f"context {c.context}",
                f"stride {c.stride}",
                separator,
                self.precision,
                f"{self.loss.targets:,} targets",
                *([f"tokenizer loses {self.lost:.1%} of characters"] if self.lost else []),
            ]
        )

    def as_metrics(self) -> dict[str, float]:
        """Everything that is a number."""
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
        """What MLflow finds it by."""
        return {"label": self.label, "fingerprint": self.conditions.fingerprint}

    def as_dict(self) -> dict[str, Any]:
        """For result.json."""
        return self.as_metrics() | {
            "label": self.label,
            "interval_by": self.unit,
            "units": self.units,
            "fingerprint": self.conditions.fingerprint,
            "conditions": vars(self.conditions),
            "precision": self.precision,
        }


@dataclass(frozen=True)
class Sums:
    """Nats and targets of each document or block."""

    nats: np.ndarray  # (D,) float64
    targets: np.ndarray  # (D,) int64
    bytes: np.ndarray  # (D,) int64; zeros where they are not known

    def interval(self) -> Interval | None:
        """Of their mean loss; None for fewer than two."""
        if int((self.targets > 0).sum()) < 2:
            return None
        return bootstrap_interval(self.nats, self.targets)


def sum_by(owners: np.ndarray, count: int, scores: "Scores", spans: "Spans | None") -> Sums:
    """The sums over the targets of each owner; `owners` (M,) says whose each target is."""
    covered = np.zeros(len(owners)) if spans is None else spans.bytes[scores.positions]
    return Sums(
        np.bincount(owners, scores.nats, minlength=count),
        np.bincount(owners, minlength=count),
        np.bincount(owners, covered, minlength=count).astype(np.int64),
    )


@dataclass(frozen=True)
class Assessment:
    """A result, and the sums by document and by block that it rests on."""

    result: Result
    sums: dict[str, Sums]  # document, block


def sums_path(folder: Path, fingerprint: str, precision: str) -> Path:
    """Where the sums behind a result are kept."""
    return folder / f"sums-{fingerprint[:8]}-{precision}.parquet"


def write_sums(folder: Path, found: Assessment) -> None:
    """Keep the sums by document and by block, so that comparing needs no second evaluation."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [
        pa.table(
            {
                "unit": [unit] * len(some.nats),
                "number": np.arange(len(some.nats)),
                "nats": some.nats,
                "targets": some.targets,
                "bytes": some.bytes,
            }
        )
        for unit, some in found.sums.items()
    ]
    fingerprint = found.result.conditions.fingerprint
    whole = pa.concat_tables(tables).replace_schema_metadata({"fingerprint": fingerprint})
    with new_file(sums_path(folder, fingerprint, found.result.precision)) as place:
        pq.write_table(whole, place)


def read_sums(folder: Path, result: dict[str, Any], unit: str) -> Sums:
    """What `write_sums` kept of one unit (document, block) of a result."""
    import pyarrow.parquet as pq

    path = sums_path(folder, result["fingerprint"], result["precision"])
    table = pq.read_table(path, filters=[("unit", "==", unit)])
    return Sums(*(table[name].to_numpy() for name in ("nats", "targets", "bytes")))


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
