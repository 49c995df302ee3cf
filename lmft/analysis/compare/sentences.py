"""Describe a comparison in sentences: differences, verdicts, and why runs are not comparable."""

import math

from lmft.analysis.compare.paired import BITS, LOSS, Pair, SeedGroup, seed_difference
from lmft.analysis.compare.ranking import Comparison, Ranking, join_letters, label_run
from lmft.analysis.compare.run_results import TRAINING, ScoredRun
from lmft.evaluation.bootstrap import seeds_needed
from lmft.evaluation.result import SOME_DOCUMENTS

HASHED = ("corpus", "tokenizer")  # conditions of which only a digest is known


def separation_sentences(comparison: Comparison) -> list[str]:
    """Say why not all runs are ranked together, and how to make them comparable."""
    groups = [ranking.runs for ranking in comparison.rankings]
    if len(groups) < 2:
        return []
    conditions = [group[0].conditions for group in groups]
    differing = [name for name in conditions[0] if len({repr(c[name]) for c in conditions}) > 1]
    sentences = [
        f"{name_separation(groups)}: their losses were measured under different conditions "
        f"({', '.join(differing)})."
    ]
    for name in differing:
        values = [f"{condition_text(group[0], name)} for {join_letters(group)}" for group in groups]
        sentences.append(f"{name} is {'; '.join(values)}.")
    if len({c["objective"]["_target_"] for c in conditions}) > 1:
        sentences.append(
            "Causal and masked models are never ranked together: one predicts each token from "
            "those before it, the other hidden tokens from both sides."
        )
    if comparison.bytewise:
        names = [join_letters(ranking.runs) for ranking in comparison.bytewise]
        sentences.append(
            f"{'; '.join(names)} are compared by bits per byte below, which do not depend on "
            "tokenizer, context or stride if every byte is scored."
        )
    elif "tokenizer" in differing and set(differing) <= {"tokenizer", "context", "stride"}:
        sentences.append(
            "To compare them by bits per byte, score all bytes: lmft evaluate run=... "
            "evaluation.stride=N with N below the context."
        )
    elif set(differing) <= {
        "context", "stride", "prefix", "windows", "max_blocks", "masks", "split"
    }:  # fmt: skip
        sentences.append(
            "To compare them, score each with the same evaluation.* knobs: lmft evaluate run=..."
        )
    return sentences


def name_separation(groups: list[list[ScoredRun]]) -> str:
    """Say which runs are not ranked with which."""
    names = [join_letters(group) for group in groups]
    if len(names) > 2:
        return f"{'; '.join(names)} are not ranked together"
    return f"{names[0]} {'are' if len(groups[0]) > 1 else 'is'} not ranked with {names[1]}"


def condition_text(run: ScoredRun, name: str) -> str:
    """Return the value of a condition as text."""
    value = run.conditions[name]
    if name in HASHED:
        return f"{str(value)[:8]} (digest)"
    if name == "objective":
        rest = [f"{knob}={v}" for knob, v in value.items() if knob != "_target_"]
        return ", ".join([str(value["_target_"]).rpartition(".")[2], *rest])
    return "all" if value is None else repr(value) if isinstance(value, str) else str(value)


SIGNIFICANCE = 0.05
MOST_SENTENCES = 5


def ranking_sentences(ranking: Ranking) -> list[str]:
    """Describe the spread over seeds, the differences to the best run, and caveats."""
    if len(ranking.runs) < 2:
        return []
    tests = len(ranking.pairs)
    sentences = seed_sentences(ranking)
    with_best = [pair for pair in ranking.pairs if pair.better is ranking.runs[0]]
    sentences += [pair_sentence(pair, ranking.knobs, tests) for pair in with_best[:MOST_SENTENCES]]
    if not with_best:
        sentences.append(
            "There are too few documents to say whether a difference is more than chance."
        )
    trained = trained_groups(ranking)
    if len(trained) > 1 and all(len(group.runs) == 1 for group in trained):
        sentences.append(
            "There is one seed per setting, so this shows which weights are better, not which "
            "setting is; add seed=1 and seed=2 to each."
        )
    if tests > 1:
        sentences.append(
            f"{tests} differences were tested at once, so “more than chance” requires "
            f"p < {SIGNIFICANCE / tests:.2g} (0.05 / {tests})."
        )
    return sentences + caveat_sentences(ranking)


def pair_sentence(pair: Pair, knobs: list[str], tests: int = 1) -> str:
    """Describe one difference with its size, its interval and a verdict.

    Args:
        pair: two runs.
        knobs: that label them.
        tests: how many differences are tested at once.
    """
    difference, better, worse = (
        pair.difference,
        label_run(pair.better, knobs),
        label_run(pair.worse, knobs),
    )
    low, high = difference.interval.low, difference.interval.high
    if difference.mean == 0 == low:
        return f"{better} and {worse} score every {pair.unit} the same."
    size = f"{difference.mean:.4f} {unit_of(pair)} [{low:.4f}, {high:.4f}]"
    if pair.measure is LOSS:
        size += f", a perplexity {percent_lower(difference.mean)}"
    seeds = " The two differ only in seed." if pair.same_settings else ""
    return (
        f"{better} is ahead of {worse} by {size}; {p_text(difference.p_value)} "
        f"over the same {pair.units:,} {pair.unit}s: {verdict(pair, tests)}.{seeds}"
    )


def verdict(pair: Pair, tests: int = 1) -> str:
    """Say whether a difference is significant, with a Bonferroni correction for `tests` tests."""
    p_value = pair.difference.p_value
    if p_value * tests <= SIGNIFICANCE:
        return "more than chance"
    return "may be chance among so many tests" if p_value <= SIGNIFICANCE else "may be chance"


def seed_sentences(ranking: Ranking) -> list[str]:
    """Compare settings by their spread over seeds; nothing if none has two seeds."""
    groups, unit, knobs = trained_groups(ranking), unit_of(ranking), ranking.knobs
    if all(group.spread is None for group in groups):
        return []
    sentences = [settings_sentence(groups[0], other, unit, knobs) for other in groups[1:]]
    for group in groups:
        if group.spread is not None:
            deviation, interval = group.spread
            sentences.append(
                f"{label_seeds(group, knobs)}: {len(group.runs)} seeds, mean {group.mean:.4f} "
                f"{unit} [{interval.low:.4f}, {interval.high:.4f}], standard deviation "
                f"{deviation:.4f}."
            )
    return sentences


def trained_groups(ranking: Ranking) -> list[SeedGroup]:
    """Return the groups of runs that were trained; models that were only scored have no seed."""
    return [group for group in ranking.seeds if group.runs[0].knobs[TRAINING] == "yes"]


def settings_sentence(better: SeedGroup, worse: SeedGroup, unit: str, knobs: list[str]) -> str:
    """Say whether one setting is better than another by their seeds, or how many seeds to add."""
    first, second = label_seeds(better, knobs), label_seeds(worse, knobs)
    if len(better.runs) + len(worse.runs) < 3:
        return f"{first} and {second} have one seed each: their spread is not known; add seed=1."
    difference = seed_difference(better.values, worse.values)
    low, high = difference.interval.low, difference.interval.high
    verb = "is" if len(better.runs) == 1 else "are"
    size = (
        f"By the mean over {len(better.runs)} and {len(worse.runs)} seeds, {first} {verb} ahead of "
        f"{second} by {difference.mean:.4f} {unit} [{low:.4f}, {high:.4f}], "
        f"{p_text(difference.p_value)} (t-test)"
    )
    if difference.p_value <= SIGNIFICANCE:
        return f"{size}: more than chance over seeds."
    needed = seeds_needed(better.values, worse.values)
    if needed is None:
        advice = "even 1,000 seeds per setting would hardly detect a difference this small"
    else:
        missing = [max(0, needed - len(group.runs)) for group in (better, worse)]
        advice = (
            f"if difference and spread are as measured, {needed} seeds per setting would detect it "
            f"in 4 of 5 cases, {missing[0]} and {missing[1]} more than there are"
        )
    return f"{size}: may be chance over seeds; {advice}."


def caveat_sentences(ranking: Ranking) -> list[str]:
    """Name what limits the comparison: different precisions, blocks as units, few documents."""
    sentences = []
    precisions = {run.result["precision"] for run in ranking.runs}
    if len(precisions) > 1:
        sentences.append(
            f"Precisions differ ({group_by_value(ranking.runs, 'precision')}), and with them "
            "rounding; lmft evaluate run=... scores each in fp32."
        )
    units = {(pair.unit, pair.units) for pair in ranking.pairs}
    for unit, count in sorted(units):
        if unit == "block":
            sentences.append(
                f"There are too few documents, so intervals are over {count:,} blocks: neighboring "
                "blocks are correlated, so the intervals are rather too narrow."
            )
        elif count < SOME_DOCUMENTS:
            sentences.append(
                f"{count} documents are few: with fewer than {SOME_DOCUMENTS}, intervals are rough."
            )
    return sentences


def group_by_value(runs: list[ScoredRun], name: str) -> str:
    """Return which runs have which value of a result, as in `A and B fp32; C bf16`."""
    values = dict.fromkeys(str(run.result[name]) for run in runs)
    return "; ".join(
        f"{join_letters([run for run in runs if str(run.result[name]) == value])} {value}"
        for value in values
    )


def label_seeds(group: SeedGroup, knobs: list[str]) -> str:
    """Return the letters of a group and, if they are few, the knobs in which groups differ."""
    label = label_run(group.runs[0], [name for name in knobs if name != "seed"])
    return join_letters(group.runs) + label.removeprefix(group.runs[0].letter)


def unit_of(compared: Pair | Ranking) -> str:
    """Return the measure's unit; the tokens of a masked model are hidden ones."""
    run = compared.better if isinstance(compared, Pair) else compared.runs[0]
    unit = compared.measure.unit
    hidden = run.conditions["masks"] != 0 and compared.measure is not BITS
    return unit.replace("token", "hidden token") if hidden else unit


def percent_lower(nats: float) -> str:
    """Return a difference of losses as a relative difference of perplexities."""
    return f"{-100 * math.expm1(-nats):.3g} % lower"


def p_text(p_value: float) -> str:
    """Return a p-value with no more digits than 10,000 resamples support."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
