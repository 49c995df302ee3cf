"""Which of several runs is better, by how much, and whether that is more than chance.

Runs are ranked by loss only where their fingerprints are equal: the same text, tokenizer, context
and all else that makes two losses comparable. Where only tokenizer, context or stride differ, bits
per byte can stand in for it.
"""

from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from lmft.analysis.compare.paired import BITS, LOSS, Measure, Pair, Seeds, group_by_seed, pair
from lmft.analysis.compare.run_results import TRAINING, Run, differing_knobs, load_runs
from lmft.errors import UserError

FEW_RUNS = 5  # up to which every pair is compared, not only the best with each other

BYTEWISE = {"tokenizer", "context", "stride"}  # conditions that bits per byte do not depend on


@dataclass(frozen=True)
class Ranking:
    """Runs that one measure may rank."""

    measure: Measure
    runs: list[Run]  # best first
    pairs: list[Pair]  # the best with every other one first
    seeds: list[Seeds]  # the lowest mean first
    knobs: list[str]  # that differ between them; for a run alone, from the other rankings


@dataclass(frozen=True)
class Comparison:
    """All there is to say of some runs on one split."""

    split: str
    runs: list[Run]
    rankings: list[Ranking]  # by loss; runs of two rankings were scored under other conditions
    bytewise: list[Ranking]  # by bits per byte, across some of those


def compare_runs(folders: list[Path], split: str | None) -> Comparison:
    """Compare the runs kept in `folders` on `split`; None: test if all have it, else validation.

    Raises:
        UserError: there are fewer than two, or one has no result.
    """
    folders = list(dict.fromkeys(folders))
    if len(folders) < 2:
        raise UserError(
            f"lmft compare needs two runs or more, but has {len(folders)}; name their folders or "
            "MLflow ids, a sweep's id, or tracker.experiment_name=NAME."
        )
    sets = by_fingerprint(load_runs(folders, split))
    runs = name_runs([run for some in sets for run in some])
    sets = by_fingerprint(runs)
    bytewise = [rank(some, BITS, []) for some in comparable_by_bytes(sets)]
    knobs = differing_knobs([run.knobs for run in runs])
    return Comparison(
        split=runs[0].conditions["split"],
        runs=runs,
        rankings=[rank(some, LOSS, knobs) for some in sets],
        bytewise=bytewise,
    )


def by_fingerprint(runs: list[Run]) -> list[list[Run]]:
    """Runs whose losses are comparable, best first; the largest set first."""
    sets: dict[str, list[Run]] = {}
    for run in sorted(runs, key=LOSS.of):
        sets.setdefault(run.result["fingerprint"], []).append(run)
    return sorted(sets.values(), key=lambda some: -len(some))


def name_runs(runs: list[Run]) -> list[Run]:
    """The same, called A, B, C ..., and beyond Z R27, R28 ..."""
    letters = [*ascii_uppercase, *(f"R{number}" for number in range(27, len(runs) + 1))]
    return [replace(run, letter=letter) for run, letter in zip(runs, letters, strict=False)]


def comparable_by_bytes(sets: list[list[Run]]) -> list[list[Run]]:
    """Runs of several sets that scored the same bytes, each token with a context before it."""
    found: dict[str, list[list[Run]]] = {}
    for some in sets:
        conditions = some[0].conditions
        if is_bytewise(conditions) and all(BITS.name in run.result for run in some):
            rest = {name: v for name, v in conditions.items() if name not in BYTEWISE}
            found.setdefault(repr(sorted(rest.items())), []).append(some)
    return [[run for some in group for run in some] for group in found.values() if len(group) > 1]


def is_bytewise(conditions: dict[str, Any]) -> bool:
    """Whether all tokens but the corpus's first were scored, so that all bytes were."""
    whole = conditions["max_blocks"] is None
    return whole and bool(conditions["stride"] < conditions["context"])


def rank(runs: list[Run], measure: Measure, alone: list[str]) -> Ranking:
    """The runs by one measure, with their differences; a run that is alone shows other knobs."""
    runs = sorted(runs, key=measure.of)
    pairs = [(runs[0], other) for other in runs[1:]]
    if len(runs) <= FEW_RUNS:
        pairs += combinations(runs[1:], 2)
    found = [pair(better, worse, measure) for better, worse in pairs]
    several = differing_knobs([run.knobs for run in runs])
    return Ranking(
        measure,
        runs,
        pairs=[some for some in found if some is not None],
        seeds=group_by_seed(runs, measure),
        knobs=several if len(runs) > 1 else [name for name in alone if name in runs[0].knobs],
    )


def describe(run: Run, knobs: list[str], most: int = 3) -> str:
    """The run's letter and, if they are few, the knobs that tell it from the others."""
    values = [f"{name}={run.knobs[name]}" for name in knobs if name in run.knobs]
    if len(values) > 1 and f"{TRAINING}=yes" in values:
        values.remove(f"{TRAINING}=yes")
    return f"{run.letter} ({', '.join(values)})" if 0 < len(values) <= most else run.letter


def letters(runs: list[Run]) -> str:
    """A, B and C."""
    names = [run.letter for run in runs]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
