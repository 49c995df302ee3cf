"""The difference of two runs on the same documents."""

import math
from dataclasses import dataclass

import numpy as np

from lmft.analysis.compare.run_results import ScoredRun
from lmft.errors import UserError
from lmft.evaluation.bootstrap import (
    Difference,
    Interval,
    bootstrap_interval,
    paired_difference,
)
from lmft.evaluation.result import FEW_DOCUMENTS, telling_interval


@dataclass(frozen=True)
class Measure:
    """A number by which runs are ranked; lower is better."""

    name: str  # in a result
    unit: str
    scale: float  # from nats

    def of(self, run: ScoredRun) -> float:
        """Return the run's value."""
        return float(run.result[self.name])

    def of_test(self, run: ScoredRun) -> float | None:
        """Return the run's value on test; None if it has none."""
        value = (run.test or {}).get(self.name)
        return None if value is None else float(value)

    def interval(self, run: ScoredRun) -> Interval | None:
        """Return the 95 % interval of the run's value; None if it says nothing."""
        if self is not BITS:
            ends = (run.result.get("loss_low"), run.result.get("loss_high"))
            return telling_interval(*ends, run.result["units"])
        sums = run.sums["document"]
        units = int(np.count_nonzero(sums.bytes))
        if units < FEW_DOCUMENTS:
            return None
        nats = bootstrap_interval(sums.nats, sums.bytes)
        shown = telling_interval(nats.low, nats.high, units)
        return shown and Interval(shown.low * self.scale, shown.high * self.scale)


LOSS = Measure("loss", "nats per token", 1.0)
BITS = Measure("bits_per_byte", "bits per byte", 1 / math.log(2))


@dataclass(frozen=True)
class Pair:
    """The paired difference of two runs."""

    better: ScoredRun
    worse: ScoredRun
    measure: Measure
    difference: Difference  # worse minus better, in the measure's unit
    unit: str  # document or block
    units: int  # number of units that were paired

    @property
    def same_settings(self) -> bool:
        """Whether the two runs differ only in seed."""
        return self.better.settings == self.worse.settings


def pair(better: ScoredRun, worse: ScoredRun, measure: Measure) -> Pair | None:
    """Return the difference of two runs on the same documents; None for too few of them.

    For bits per byte the first document is left out: its first token is never scored, and its
    length depends on the tokenizer. Bytes that one of the tokenizers loses count for both runs.

    Raises:
        UserError: the runs were not scored on the same documents.
    """
    unit = "document" if measure is BITS else str(better.result["interval_by"])
    first, second = better.sums[unit], worse.sums[unit]
    if len(first.nats) != len(second.nats) or (
        measure is LOSS and not np.array_equal(first.targets, second.targets)
    ):
        raise UserError(
            f"{better.folder} and {worse.folder} have the same evaluation fingerprint but "
            f"different {unit}s; score them again with lmft evaluate run=..."
        )
    nats = [first.nats, second.nats]
    counts = first.targets
    if measure is BITS:
        nats = [part[1:] for part in nats]
        counts = np.maximum(first.bytes, second.bytes)[1:]
    units = int(np.count_nonzero(counts))
    if units < FEW_DOCUMENTS:
        return None
    in_nats = paired_difference(nats[1], nats[0], counts)
    low, high = in_nats.interval.low * measure.scale, in_nats.interval.high * measure.scale
    scaled = Difference(in_nats.mean * measure.scale, Interval(low, high), in_nats.p_value)
    return Pair(better, worse, measure, scaled, unit, units)
