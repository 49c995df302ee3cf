"""Two runs on the same documents, or two settings over their seeds: how far apart they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

from lmft.analysis.compare.run_results import Run
from lmft.errors import UserError
from lmft.evaluation.bootstrap import (
    Difference,
    Interval,
    bootstrap_interval,
    paired_difference,
    seeds_needed,
    spread,
)
from lmft.evaluation.result import FEW_DOCUMENTS


@dataclass(frozen=True)
class Measure:
    """A number that runs can be ranked by; less is better."""

    name: str  # in a result
    unit: str
    scale: float  # from nats

    def of(self, run: Run) -> float:
        """The run's value."""
        return float(run.result[self.name])

    def interval(self, run: Run) -> Interval | None:
        """Its 95 % interval."""
        if self is not BITS:
            low, high = run.result.get("loss_low"), run.result.get("loss_high")
            return None if low is None or high is None else Interval(low, high)
        sums = run.sums["document"]
        if np.count_nonzero(sums.bytes) < FEW_DOCUMENTS:
            return None
        found = bootstrap_interval(sums.nats, sums.bytes)
        return Interval(found.low * self.scale, found.high * self.scale)


LOSS = Measure("loss", "nats per token", 1.0)

BITS = Measure("bits_per_byte", "bits per byte", 1 / math.log(2))


@dataclass(frozen=True)
class Pair:
    """By how much `worse` is worse than `better`."""

    better: Run
    worse: Run
    measure: Measure
    difference: Difference  # worse less better, in the measure's unit
    unit: str  # document or block
    units: int  # that were paired

    @property
    def same_settings(self) -> bool:
        """Whether the two differ only in seed."""
        return self.better.settings == self.worse.settings


@dataclass(frozen=True)
class Seeds:
    """Runs that differ only in seed."""

    runs: list[Run]
    values: list[float]  # of the measure, one a run

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(self.values))

    @property
    def spread(self) -> tuple[float, Interval] | None:
        """Sample deviation and the mean's 95 % interval; None for one seed."""
        return spread(self.values)[1:] if len(self.values) > 1 else None


def pair(better: Run, worse: Run, measure: Measure) -> Pair | None:
    """The two on the same documents; None where too few of them can be paired.

    By bits per byte the first document is left out: its first token, which is never scored, is not
    as long for every tokenizer. Bytes that a tokenizer loses count for both.
    """
    unit = "document" if measure is BITS else str(better.result["interval_by"])
    first, second = better.sums[unit], worse.sums[unit]
    if len(first.nats) != len(second.nats) or (
        measure is LOSS and not np.array_equal(first.targets, second.targets)
    ):
        raise UserError(
            f"{better.folder} and {worse.folder} were scored alike but have not the same "
            f"{unit}s; score them again with lmft evaluate run=..."
        )
    nats = [first.nats, second.nats]
    counted = first.targets
    if measure is BITS:
        nats = [part[1:] for part in nats]
        counted = np.maximum(first.bytes, second.bytes)[1:]
    units = int(np.count_nonzero(counted))
    if units < (FEW_DOCUMENTS if measure is BITS else 2):
        return None
    found = paired_difference(nats[1], nats[0], counted)
    low, high = found.interval.low * measure.scale, found.interval.high * measure.scale
    scaled = Difference(found.mean * measure.scale, Interval(low, high), found.p_value)
    return Pair(better, worse, measure, scaled, unit, units)


def group_by_seed(runs: list[Run], measure: Measure) -> list[Seeds]:
    """Runs with all settings but the seed in common, the group of the lowest mean first."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.settings, []).append(run)
    found = [Seeds(group, [measure.of(run) for run in group]) for group in groups.values()]
    return sorted(found, key=lambda seeds: seeds.mean)


def seed_difference(better: Sequence[float], worse: Sequence[float]) -> Difference:
    """Of the means over seeds, by Student's t-test with pooled deviation; 3 or more values."""
    freedom = len(better) + len(worse) - 2
    mean = float(np.mean(worse) - np.mean(better))
    squares = float(np.var(better)) * len(better) + float(np.var(worse)) * len(worse)
    error = math.sqrt(squares / freedom * (1 / len(better) + 1 / len(worse)))
    half_width = float(stdtrit(freedom, 0.975)) * error
    t = abs(mean) / error if error else (math.inf if mean else 0.0)
    interval = Interval(mean - half_width, mean + half_width)
    return Difference(mean, interval, 2 * float(stdtr(freedom, -t)))


def more_seeds(better: Seeds, worse: Seeds) -> int | None:
    """Seeds a side that would tell a difference as large as the one seen; None: over 1,000."""
    return seeds_needed(better.values, worse.values)
