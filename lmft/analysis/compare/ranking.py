"""Rank runs where that is valid: by loss under equal conditions, else perhaps by bits per byte.

Two losses are comparable only if their fingerprints are equal: same text, tokenizer, context and
all else that decides the number. If only tokenizer, context or stride differ, bits per byte may be
compared instead.
"""

from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from lmft.analysis.compare.paired import BITS, LOSS, Measure, Pair, pair
from lmft.analysis.compare.run_results import TRAINING, ScoredRun, differing_knobs, load_runs
from lmft.analysis.compare.seeds import SeedGroup, group_by_seed
from lmft.config.text_words import PREFIXES
from lmft.config.training_knobs import WindowRule
from lmft.errors import UserError

FEW_RUNS = 5  # up to which all pairs are tested; beyond, each run is only paired with the best
# Conditions that bits per byte do not depend on.
BYTEWISE = {"tokenizer", "context", "stride", "windows"}


@dataclass(frozen=True)
class Ranking:
    """Runs that are comparable by one measure."""

    measure: Measure
    runs: list[ScoredRun]  # best first
    pairs: list[Pair]  # those with the best run first
    seeds: list[SeedGroup]  # lowest mean first
    knobs: list[str]  # that differ between the runs; for a single run, from other rankings


@dataclass(frozen=True)
class Comparison:
    """All rankings of some runs on one split."""

    split: str
    split_asked: bool  # whether it was asked for; else it follows from the runs
    runs: list[ScoredRun]
    rankings: list[Ranking]  # by loss; each has runs that were scored under equal conditions
    bytewise: list[Ranking]  # by bits per byte, across several of those


def compare_runs(folders: list[Path], split: str | None) -> Comparison:
    """Compare the runs in `folders` on `split`; None: validation if all have it, else test.

    Raises:
        UserError: there are fewer than two, or one has no result.
    """
    folders = list(dict.fromkeys(folders))
    if len(folders) < 2:
        raise UserError(
            f"lmft compare needs two runs or more, but has {len(folders)}; name their folders or "
            "MLflow ids, a sweep's id, or tracker.experiment_name=NAME."
        )
    groups = group_by_fingerprint(load_runs(folders, split))
    runs = assign_letters([run for group in groups for run in group])
    groups = group_by_fingerprint(runs)
    knobs = differing_knobs([run.knobs for run in runs])
    return Comparison(
        split=runs[0].conditions["split"],
        split_asked=split is not None,
        runs=runs,
        rankings=[rank(group, LOSS, knobs) for group in groups],
        bytewise=[rank(group, BITS, []) for group in merge_bytewise(groups)],
    )


def group_by_fingerprint(runs: list[ScoredRun]) -> list[list[ScoredRun]]:
    """Group runs whose losses are comparable, best first; the largest group comes first."""
    groups: dict[str, list[ScoredRun]] = {}
    for run in sorted(runs, key=LOSS.of):
        groups.setdefault(run.result["fingerprint"], []).append(run)
    return sorted(groups.values(), key=lambda group: -len(group))


def assign_letters(runs: list[ScoredRun]) -> list[ScoredRun]:
    """Name the runs A, B, C ..., and beyond Z R27, R28 ..."""
    letters = [*ascii_uppercase, *(f"R{number}" for number in range(27, len(runs) + 1))]
    return [replace(run, letter=letter) for run, letter in zip(runs, letters, strict=False)]


def merge_bytewise(groups: list[list[ScoredRun]]) -> list[list[ScoredRun]]:
    """Merge groups that scored the same bytes, each with context; drop those without a partner."""
    merged: dict[str, list[list[ScoredRun]]] = {}
    for group in groups:
        conditions = group[0].conditions
        if scores_all_bytes(conditions) and all(BITS.name in run.result for run in group):
            rest = {name: v for name, v in conditions.items() if name not in BYTEWISE}
            if rest["prefix"] in PREFIXES.values():  # a token without content, and not a text
                del rest["prefix"]
            merged.setdefault(repr(sorted(rest.items())), []).append(group)
    return [
        [run for group in parts for run in group] for parts in merged.values() if len(parts) > 1
    ]


def scores_all_bytes(conditions: dict[str, Any]) -> bool:
    """Return whether all tokens but the first of the corpus were scored."""
    whole = conditions["max_blocks"] is None
    rolling = conditions["windows"] == WindowRule.rolling.value
    return whole and bool(rolling or conditions["stride"] < conditions["context"])


def rank(runs: list[ScoredRun], measure: Measure, fallback_knobs: list[str]) -> Ranking:
    """Rank runs by one measure, and test their differences.

    Args:
        runs: comparable by the measure.
        measure: loss or bits per byte.
        fallback_knobs: to show for a single run, which differs from no other.
    """
    runs = sorted(runs, key=measure.of)
    candidates = [(runs[0], other) for other in runs[1:]]
    if len(runs) <= FEW_RUNS:
        candidates += combinations(runs[1:], 2)
    pairs = [pair(better, worse, measure) for better, worse in candidates]
    if len(runs) > 1:
        knobs = differing_knobs([run.knobs for run in runs])
    else:
        knobs = [name for name in fallback_knobs if name in runs[0].knobs]
    return Ranking(
        measure,
        runs,
        pairs=[paired for paired in pairs if paired is not None],
        seeds=group_by_seed(runs, measure),
        knobs=knobs,
    )


def label_run(run: ScoredRun, knobs: list[str], most: int = 3) -> str:
    """Return the run's letter with the values of `knobs`, unless there are more than `most`."""
    values = [f"{name}={run.knobs[name]}" for name in knobs if name in run.knobs]
    if len(values) > 1 and f"{TRAINING}=yes" in values:
        values.remove(f"{TRAINING}=yes")
    return f"{run.letter} ({', '.join(values)})" if 0 < len(values) <= most else run.letter


def join_letters(runs: list[ScoredRun]) -> str:
    """Return the letters of the runs as in `A, B and C`."""
    letters = [run.letter for run in runs]
    return " and ".join([", ".join(letters[:-1]), letters[-1]] if len(letters) > 1 else letters)
