"""Describe settings by their seeds: a table of means, and which setting is better."""

from collections.abc import Callable

from lmft.analysis.compare.ranking import Ranking, join_letters, label_run
from lmft.analysis.compare.run_results import TRAINING, ScoredRun
from lmft.analysis.compare.seeds import SeedGroup, seed_difference
from lmft.analysis.compare.sentences import SIGNIFICANCE, p_text, unit_of, verdict
from lmft.analysis.compare.tables import MISSING, Table, knob_cells
from lmft.evaluation.bootstrap import seeds_needed

TITLE = "Settings, mean ± sample standard deviation over seeds"


def trained_groups(ranking: Ranking) -> list[SeedGroup]:
    """Return the groups of runs that were trained; models that were only scored have no seed."""
    return [group for group in ranking.seeds if group.runs[0].knobs[TRAINING] == "yes"]


def have_seeds(ranking: Ranking) -> bool:
    """Return whether a setting was run with several seeds."""
    return any(len(group.runs) > 1 for group in trained_groups(ranking))


def settings_table(ranking: Ranking) -> Table | None:
    """Return one row per setting, lowest mean first; None if no setting has several seeds."""
    if not have_seeds(ranking):
        return None
    groups = trained_groups(ranking)
    names = [name for name in ranking.knobs if name != "seed"]
    columns, knobs = knob_cells([group.runs[0] for group in groups], names)
    measures: dict[str, Callable[[ScoredRun], float | None]] = {
        unit_of(ranking): ranking.measure.of
    }
    if any(run.test for run in ranking.runs):
        measures["test"] = ranking.measure.of_test
    rows = [
        [
            join_letters(group.runs),
            *cells,
            str(len(group.runs)),
            *(mean_text(group.runs, measure) for measure in measures.values()),
        ]
        for group, cells in zip(groups, knobs, strict=True)
    ]
    header = ["runs", *columns, "seeds", *measures]
    return Table(header, rows, frozenset(range(1 + len(columns), len(header))))


def mean_text(runs: list[ScoredRun], measure: Callable[[ScoredRun], float | None]) -> str:
    """Return the mean of a measure over runs, with its sample standard deviation for several."""
    values = [value for run in runs if (value := measure(run)) is not None]
    if len(values) < len(runs):
        return MISSING
    group = SeedGroup(runs, values)
    spread = "" if group.deviation is None else f" ± {group.deviation:.4f}"
    return f"{group.mean:.4f}{spread}"


def settings_sentences(ranking: Ranking) -> list[str]:
    """Compare settings over their seeds; nothing if no setting has several seeds."""
    groups = trained_groups(ranking)
    if not have_seeds(ranking):
        return []
    if len(groups) == 1:
        return [
            f"{join_letters(groups[0].runs)} are one setting with {len(groups[0].runs)} seeds: "
            "what differs between them is chance, so none of them is a better setting."
        ]
    several = [group for group in groups if len(group.runs) > 1]
    tests = len(several) - 1
    unit, knobs = unit_of(ranking), ranking.knobs
    sentences = [setting_sentence(several[0], other, unit, knobs, tests) for other in several[1:]]
    if tests > 1:
        sentences.append(
            f"{tests} differences of settings were tested at once, so “more than chance” requires "
            f"p < {SIGNIFICANCE / tests:.2g} ({SIGNIFICANCE} / {tests})."
        )
    alone = [run for group in groups if len(group.runs) == 1 for run in group.runs]
    if alone:
        have = "have" if len(alone) > 1 else "has"
        sentences.append(
            f"{join_letters(alone)} {have} one seed, so over seeds it is not known whether a "
            "setting is better; add seed=1 and seed=2."
        )
    best = groups[0]
    if ranking.runs[0] not in best.runs:
        sentences.append(
            f"{ranking.runs[0].letter} is the best run, but the setting with the best mean is that "
            f"of {label_seeds(best, knobs)}."
        )
    return sentences


def setting_sentence(
    better: SeedGroup, worse: SeedGroup, unit: str, knobs: list[str], tests: int = 1
) -> str:
    """Say whether one setting is better than another by their seeds, or how many seeds to add.

    Args:
        better: several seeds of a setting.
        worse: of another one, with a higher mean.
        unit: of the values.
        knobs: that label the settings.
        tests: how many differences are tested at once.
    """
    first, second = label_seeds(better, knobs), label_seeds(worse, knobs)
    difference = seed_difference(better.values, worse.values)
    low, high = difference.interval.low, difference.interval.high
    size = (
        f"By the mean over {len(better.runs)} and {len(worse.runs)} seeds, {first} are ahead of "
        f"{second} by {difference.mean:.4f} {unit} [{low:.4f}, {high:.4f}], "
        f"{p_text(difference.p_value)} (Welch's t-test): "
        f"{verdict(difference.p_value, tests)} over seeds"
    )
    if difference.p_value <= SIGNIFICANCE:
        return f"{size}."
    needed = seeds_needed(better.values, worse.values)
    if needed is None:
        return f"{size}; even 1,000 seeds per setting would hardly detect so small a difference."
    missing = [max(0, needed - len(group.runs)) for group in (better, worse)]
    return (
        f"{size}; if difference and spread are as measured, {needed} seeds per setting would "
        f"detect it in 4 of 5 cases, {missing[0]} and {missing[1]} more than there are."
    )


def label_seeds(group: SeedGroup, knobs: list[str]) -> str:
    """Return the letters of a group and, if they are few, the knobs in which groups differ."""
    label = label_run(group.runs[0], [name for name in knobs if name != "seed"])
    return join_letters(group.runs) + label.removeprefix(group.runs[0].letter)
