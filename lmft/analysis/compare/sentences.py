"""Describe a comparison in sentences: differences, verdicts, and why runs are not comparable."""

import math

from lmft.analysis.compare.paired import BITS, LOSS, Pair
from lmft.analysis.compare.ranking import FEW_RUNS, Comparison, Ranking, join_letters, label_run
from lmft.analysis.compare.run_results import SPLITS, TRAINING, ScoredRun
from lmft.evaluation.result import NO_INTERVAL, SOME_DOCUMENTS

HASHED = ("corpus", "tokenizer", "template")  # conditions of which only a digest is known


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
    if name in HASHED and value is not None:
        return f"{str(value)[:8]} (digest)"
    if name == "objective":
        rest = [f"{knob}={v}" for knob, v in value.items() if knob != "_target_"]
        return ", ".join([str(value["_target_"]).rpartition(".")[2], *rest])
    return "all" if value is None else repr(value) if isinstance(value, str) else str(value)


SIGNIFICANCE = 0.05
MOST_SENTENCES = 5


def selection_sentence(comparison: Comparison) -> str:
    """Say by which split the best run is chosen."""
    split, (first, _) = comparison.split, SPLITS
    if comparison.split_asked and split != first:
        return f"The runs are ranked by {split}, as asked; choose the best one by {first}."
    if split != first:
        return f"Not all runs have a {first} result, so the best run is chosen by {split}."
    beside = "; test is shown beside it" if any(run.test for run in comparison.runs) else ""
    return f"The best run is chosen by {split}{beside}."


def pair_sentences(ranking: Ranking) -> list[str]:
    """Describe the differences of single runs to the best one."""
    with_best = [pair for pair in ranking.pairs if pair.better is ranking.runs[0]]
    if not with_best:
        return ["There are too few documents to say whether a difference is more than chance."]
    tests = count_tests(ranking)
    sentences = [pair_sentence(pair, ranking.knobs, tests) for pair in with_best[:MOST_SENTENCES]]
    if sum(run.knobs[TRAINING] == "yes" for run in ranking.runs) > 1:
        sentences.append(
            "There is one seed per setting, so this shows which weights are better, not which "
            "setting is; add seed=1 and seed=2 to each."
        )
    return sentences


def significance_sentences(ranking: Ranking, has_seeds: bool) -> list[str]:
    """Say what a small p-value means, and which differences were tested.

    Args:
        ranking: of the runs.
        has_seeds: whether settings were tested over seeds too.
    """
    if not ranking.pairs:
        return []
    meaning = (
        f"A small p over {ranking.pairs[0].unit}s means that another sample of such text would "
        "hardly change the order of these two sets of weights, not that a setting is better"
    )
    if has_seeds:
        meaning += "; one over seeds, that other seeds would hardly change the order of settings"
    sentences, tests = [f"{meaning}."], count_tests(ranking)
    if len(ranking.runs) > FEW_RUNS:
        sentences.append(f"With more than {FEW_RUNS} runs, each is compared with the best only.")
    if tests > 1:
        sentences.append(
            f"{tests} differences of runs were tested at once, so “more than chance” requires "
            f"p < {SIGNIFICANCE / tests:.2g} ({SIGNIFICANCE} / {tests})."
        )
    return sentences


def count_tests(ranking: Ranking) -> int:
    """Return how many differences are tested; that of two seeds of one setting is none."""
    return sum(not pair.same_settings for pair in ranking.pairs)


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
    return (
        f"{better} is ahead of {worse} by {size}; {p_text(difference.p_value)} "
        f"over the same {pair.units:,} {pair.unit}s: {verdict(difference.p_value, tests)}."
    )


def verdict(p_value: float, tests: int = 1) -> str:
    """Say whether a difference is significant, with a Bonferroni correction for `tests` tests."""
    if p_value * tests <= SIGNIFICANCE:
        return "more than chance"
    return "may be chance among so many tests" if p_value <= SIGNIFICANCE else "may be chance"


def caveat_sentences(ranking: Ranking) -> list[str]:
    """Name what limits the comparison: precisions, conditions of test, units, few documents."""
    sentences = []
    precisions = {run.result["precision"] for run in ranking.runs}
    if len(precisions) > 1:
        sentences.append(
            f"Precisions differ ({group_by_value(ranking.runs, 'precision')}), and with them "
            "rounding; lmft evaluate run=... scores each in fp32."
        )
    if len({run.test["fingerprint"] for run in ranking.runs if run.test}) > 1:
        sentences.append(
            "The test results were measured under different conditions, so they are not comparable."
        )
    blank = [run for run in ranking.runs if ranking.measure.interval(run) is None]
    if blank:
        sentences.append(f"{join_letters(blank)}: {NO_INTERVAL}.")
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
