"""A comparison as pandas tables."""

from typing import TYPE_CHECKING

from lmft.analysis.compare.paired import LOSS

if TYPE_CHECKING:
    from pandas import DataFrame

    from lmft.analysis.compare.ranking import Comparison as Ranked
    from lmft.analysis.compare.run_results import ScoredRun


BESIDE = ("loss", "perplexity")  # of test, where the runs are ranked by another split


def as_frames(comparison: "Ranked") -> "tuple[DataFrame, DataFrame]":
    """Return the runs of a comparison, and its pairs, as tables."""
    from pandas import DataFrame

    rankings = [*comparison.rankings, *comparison.bytewise]
    runs = [
        {
            "run": run.folder.name,
            "split": comparison.split,
            **{name: run.knobs.get(name) for name in ranking.knobs},
            "loss": run.result["loss"],
            **ends_of(run),
            "perplexity": run.result["perplexity"],
            "bits_per_byte": run.result.get("bits_per_byte"),
            "targets": run.result["targets"],
            **({f"test_{name}": run.test[name] for name in BESIDE} if run.test else {}),
        }
        for ranking in comparison.rankings
        for run in ranking.runs
    ]
    pairs = [
        {
            "better": pair.better.folder.name,
            "worse": pair.worse.folder.name,
            "difference": pair.difference.mean,
            "low": pair.difference.interval.low,
            "high": pair.difference.interval.high,
            "p": pair.difference.p_value,
            "unit": pair.measure.unit,
        }
        for ranking in rankings
        for pair in ranking.pairs
    ]
    return DataFrame(runs).set_index("run"), DataFrame(pairs)


def ends_of(run: "ScoredRun") -> dict[str, float | None]:
    """Return the ends of the 95 % interval of a run's loss; None if it says nothing."""
    interval = LOSS.interval(run)
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {"loss_low": low, "loss_high": high}
