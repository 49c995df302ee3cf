"""Group runs by setting, and test the difference of two settings over their seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

from lmft.analysis.compare.paired import Measure
from lmft.analysis.compare.run_results import ScoredRun
from lmft.evaluation.bootstrap import ROUNDING, Difference, Interval


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ only in seed."""

    runs: list[ScoredRun]
    values: list[float]  # of the measure, one per run

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over seeds (S - 1); None for one seed."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None


def group_by_seed(runs: list[ScoredRun], measure: Measure) -> list[SeedGroup]:
    """Group runs that differ only in seed; the group with the lowest mean comes first."""
    groups: dict[str, list[ScoredRun]] = {}
    for run in runs:
        groups.setdefault(run.settings, []).append(run)
    seed_groups = [
        SeedGroup(group, [measure.of(run) for run in group]) for group in groups.values()
    ]
    return sorted(seed_groups, key=lambda group: group.mean)


def seed_difference(better: Sequence[float], worse: Sequence[float]) -> Difference:
    """Return the difference of two means over seeds, by Welch's t-test.

    Its degrees of freedom are Satterthwaite's, so the two deviations may differ (Welch 1947,
    Biometrika 34:28). Runs are not paired by seed; where the same seeds make both
    settings better or worse together, the test is rather cautious. Each side has at least 2 values.
    """
    mean = float(np.mean(worse) - np.mean(better))
    squares = [float(np.var(values, ddof=1)) / len(values) for values in (better, worse)]
    error = math.sqrt(sum(squares))
    if error <= ROUNDING * abs(float(np.mean(better))):  # the seed has no effect
        return Difference(mean, Interval(mean, mean), 0.0 if mean else 1.0)
    parts = zip(squares, (better, worse), strict=True)
    freedom = sum(squares) ** 2 / sum(part**2 / (len(values) - 1) for part, values in parts)
    half_width = float(stdtrit(freedom, 0.975)) * error
    interval = Interval(mean - half_width, mean + half_width)
    return Difference(mean, interval, 2 * float(stdtr(freedom, -abs(mean) / error)))
