"""What a comparison found, in sentences: differences, verdicts, and what is not ranked together."""

import math

from lmft.analysis.compare.paired import BITS, LOSS, Pair, Seeds, more_seeds, seed_difference
from lmft.analysis.compare.ranking import Comparison, Ranking, describe, letters
from lmft.analysis.compare.run_results import TRAINING, Run
from lmft.evaluation.result import SOME_DOCUMENTS

HASHED = ("corpus", "tokenizer")  # conditions of which only a digest is known


def tell_apart(comparison: Comparison) -> list[str]:
    """Why not all runs are ranked together, and the way out."""
    sets = [ranking.runs for ranking in comparison.rankings]
    if len(sets) < 2:
        return []
    firsts = [some[0].conditions for some in sets]
    differing = [name for name in firsts[0] if len({repr(c[name]) for c in firsts}) > 1]
    told = [
        f"{name_sets(sets)}: their losses were measured under different conditions "
        f"({', '.join(differing)})."
    ]
    for name in differing:
        values = [f"{condition(some[0], name)} for {letters(some)}" for some in sets]
        told.append(f"{name} is {'; '.join(values)}.")
    if len({c["objective"]["_target_"] for c in firsts}) > 1:
        told.append(
            "Causal and masked models are never ranked together: one predicts each token from "
            "those before it, the other hidden tokens from both sides."
        )
    if comparison.bytewise:
        names = [letters(ranking.runs) for ranking in comparison.bytewise]
        told.append(
            f"For {'; '.join(names)} bits per byte stand in, below: they do not depend on "
            "tokenizer, context or stride where every byte is scored."
        )
    elif "tokenizer" in differing and set(differing) <= {"tokenizer", "context", "stride"}:
        told.append(
            "lmft evaluate run=... evaluation.stride=N with N below the context scores all bytes; "
            "then bits per byte compare them."
        )
    elif set(differing) <= {"context", "stride", "max_blocks", "masks", "split"}:
        told.append("lmft evaluate run=... with the same evaluation.* for each scores them alike.")
    return told


def name_sets(sets: list[list[Run]]) -> str:
    """Who is not ranked with whom."""
    names = [letters(some) for some in sets]
    if len(names) > 2:
        return f"{'; '.join(names)} are not ranked together"
    return f"{names[0]} {'are' if len(sets[0]) > 1 else 'is'} not ranked with {names[1]}"


def condition(run: Run, name: str) -> str:
    """A condition's value for a person."""
    value = run.conditions[name]
    if name in HASHED:
        return f"{str(value)[:8]} (digest)"
    if name == "objective":
        rest = [f"{knob}={v}" for knob, v in value.items() if knob != "_target_"]
        return ", ".join([str(value["_target_"]).rpartition(".")[2], *rest])
    return "all" if value is None else repr(value) if isinstance(value, str) else str(value)


CHANCE = 0.05

MOST_SENTENCES = 5


def tell_ranking(ranking: Ranking) -> list[str]:
    """What seeds say, who is ahead of whom by how much, and what to bear in mind."""
    if len(ranking.runs) < 2:
        return []
    count = len(ranking.pairs)
    told = tell_seeds(ranking)
    with_best = [pair for pair in ranking.pairs if pair.better is ranking.runs[0]]
    told += [tell_pair(pair, ranking.knobs, count) for pair in with_best[:MOST_SENTENCES]]
    if not with_best:
        told.append("There are too few documents to say whether a difference is more than chance.")
    trained = trained_groups(ranking)
    if len(trained) > 1 and all(len(group.runs) == 1 for group in trained):
        told.append(
            "One seed a setting: this tells which weights are better, not which setting is; "
            "seed=1 and seed=2 for each would."
        )
    if count > 1:
        told.append(
            f"{count} differences were tested at once, so “more than chance” asks for "
            f"p < {CHANCE / count:.2g} (0.05 / {count})."
        )
    return told + tell_limits(ranking)


def tell_pair(pair: Pair, knobs: list[str], tests: int = 1) -> str:
    """One difference with its size, its interval and a verdict."""
    found, better = pair.difference, describe(pair.better, knobs)
    if found.mean == 0 == found.interval.low:
        return f"{better} and {describe(pair.worse, knobs)} score every {pair.unit} the same."
    size = f"{found.mean:.4f} {unit_of(pair)} [{found.interval.low:.4f}, {found.interval.high:.4f}]"
    if pair.measure is LOSS:
        size += f", a perplexity {percent_lower(found.mean)}"
    seeds = " The two differ only in seed." if pair.same_settings else ""
    return (
        f"{better} is ahead of {describe(pair.worse, knobs)} by {size}; {p_text(found.p_value)} "
        f"over the same {pair.units:,} {pair.unit}s: {verdict(pair, tests)}.{seeds}"
    )


def verdict(pair: Pair, tests: int = 1) -> str:
    """Whether a difference is more than chance, among so many that were tested."""
    p_value = pair.difference.p_value
    if p_value * tests <= CHANCE:
        return "more than chance"
    return "may be chance among so many" if p_value <= CHANCE else "may be chance"


def tell_seeds(ranking: Ranking) -> list[str]:
    """What the spread over seeds says of settings; nothing where none has two seeds."""
    groups, unit, knobs = trained_groups(ranking), unit_of(ranking), ranking.knobs
    if all(group.spread is None for group in groups):
        return []
    told = [tell_settings(groups[0], other, unit, knobs) for other in groups[1:]]
    for group in groups:
        if group.spread is not None:
            deviation, interval = group.spread
            told.append(
                f"{name_seeds(group, knobs)}: {len(group.runs)} seeds, mean {group.mean:.4f} "
                f"{unit} [{interval.low:.4f}, {interval.high:.4f}], deviation {deviation:.4f}."
            )
    return told


def trained_groups(ranking: Ranking) -> list[Seeds]:
    """Without models that were only scored, which have no seed."""
    return [group for group in ranking.seeds if group.runs[0].knobs[TRAINING] == "yes"]


def tell_settings(better: Seeds, worse: Seeds, unit: str, knobs: list[str]) -> str:
    """Whether one setting is better than another, by their seeds, or how many would tell."""
    first, second = name_seeds(better, knobs), name_seeds(worse, knobs)
    if len(better.runs) + len(worse.runs) < 3:
        return f"{first} and {second} have one seed each: their spread is not known; add seed=1."
    found = seed_difference(better.values, worse.values)
    low, high = found.interval.low, found.interval.high
    verb = "is" if len(better.runs) == 1 else "are"
    ahead = (
        f"By the mean over {len(better.runs)} and {len(worse.runs)} seeds, {first} {verb} ahead of "
        f"{second} by {found.mean:.4f} {unit} [{low:.4f}, {high:.4f}], "
        f"{p_text(found.p_value)} (t-test)"
    )
    if found.p_value <= CHANCE:
        return f"{ahead}: more than the chance of seeds."
    needed = more_seeds(better, worse)
    if needed is None:
        rest = "even 1,000 seeds a side would hardly tell a difference this small"
    else:
        more = [max(0, needed - len(group.runs)) for group in (better, worse)]
        rest = (
            f"were it and the spread real, {needed} seeds a side would tell in 4 of 5 cases, "
            f"{more[0]} and {more[1]} more than there are"
        )
    return f"{ahead}: may be the chance of seeds; {rest}."


def tell_limits(ranking: Ranking) -> list[str]:
    """What to bear in mind: precisions that differ, blocks for documents, few documents."""
    told = []
    precisions = {run.result["precision"] for run in ranking.runs}
    if len(precisions) > 1:
        told.append(
            f"Precisions differ ({by_value(ranking.runs, 'precision')}), and with them rounding; "
            "lmft evaluate run=... scores each in fp32."
        )
    units = {(pair.unit, pair.units) for pair in ranking.pairs}
    for unit, count in sorted(units):
        if unit == "block":
            told.append(
                f"There are too few documents, so intervals are over {count:,} blocks: neighbours "
                "are alike, so they are rather too narrow."
            )
        elif count < SOME_DOCUMENTS:
            told.append(f"{count} documents are few: under {SOME_DOCUMENTS} intervals are rough.")
    return told


def by_value(runs: list[Run], name: str) -> str:
    """Which of the runs has which value of a result."""
    values = dict.fromkeys(str(run.result[name]) for run in runs)
    return "; ".join(
        f"{letters([run for run in runs if str(run.result[name]) == value])} {value}"
        for value in values
    )


def name_seeds(group: Seeds, knobs: list[str]) -> str:
    """The runs of a group and, if they are few, the knobs that tell it from other groups."""
    names = letters(group.runs)
    text = describe(group.runs[0], [name for name in knobs if name != "seed"])
    return names + text.removeprefix(group.runs[0].letter)


def unit_of(found: Pair | Ranking) -> str:
    """The measure's unit; a masked model's tokens are hidden ones."""
    run = found.better if isinstance(found, Pair) else found.runs[0]
    hidden = "mask_fraction" in run.conditions["objective"] and found.measure is not BITS
    return found.measure.unit.replace("token", "hidden token") if hidden else found.measure.unit


def percent_lower(nats: float) -> str:
    """A difference of losses as a ratio of perplexities."""
    return f"{-100 * math.expm1(-nats):.3g} % lower"


def p_text(p_value: float) -> str:
    """Not more digits than 10,000 draws can give."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
