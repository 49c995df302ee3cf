"""Rows measured in live processes, step by step; two processes alternate."""

import statistics
from dataclasses import replace
from pathlib import Path

from benchmarks.figures import Figure, Target
from benchmarks.limit import operations, product_rate
from benchmarks.turns import Job, Side

UNTIMED = 2  # warm-up turns: memory is allocated and code compiled
Targets = dict[str, Target]  # by name of the figure
Turn = dict[str, float]  # measurements of one turn, including `seconds`


def train_in_turns(
    ours: Job, theirs: Job, turns_a_pair: int, targets: Targets, pairs: int, folder: Path
) -> list[Figure]:
    """Compare training: speed, peak memory, first step and share of the limit (MFU)."""
    count = UNTIMED + pairs * turns_a_pair
    with (
        Side("ours", ours.within(count, folder)) as us,
        Side("peer", theirs.within(count, folder)) as them,
    ):
        turns, rate = take_turns([us, them], count, ours.precision)
        figures = compare(ours, turns, [us.end(), them.end()], turns_a_pair)
        figures.append(first_step(turns[0]))
        if ours.objective == "clm":
            figures.append(share_of_limit(ours, us, figures[0].ours, rate))
    return [replace(figure, target=targets.get(figure.name)) for figure in figures]


def evaluate_in_turns(
    ours: Job, theirs: Job, blocks: int, targets: Targets, pairs: int, folder: Path
) -> list[Figure]:
    """Compare speed and peak memory of evaluating `blocks` blocks; each batch is a pair."""
    count = blocks // ours.batch
    with (
        Side("ours", ours.within(count, folder)) as us,
        Side("peer", theirs.within(count, folder)) as them,
    ):
        turns, _ = take_turns([us, them], count, ours.precision)
        figures = compare(ours, turns, [us.end(), them.end()], 1)
    return [replace(figure, target=targets.get(figure.name)) for figure in figures]


def train_alone(job: Job, targets: Targets, pairs: int, folder: Path) -> list[Figure]:
    """Measure the share of the limit without a second process that evicts the CPU caches."""
    count = UNTIMED + 4 * pairs
    with Side("ours", job.within(count, folder)) as us:
        turns, rate = take_turns([us], count, job.precision)
        us.end()
    figure = share_of_limit(job, us, speeds(job, turns[0][UNTIMED:], 4), rate)
    return [replace(figure, target=targets.get(figure.name))]


def share_of_limit(job: Job, side: Side, speeds: list[float], rate: float) -> Figure:
    """Return the model FLOPs utilization: each speed as % of the peak rate of matrix products."""
    work = operations(**side.facts, block=job.block, tokens=1)
    return Figure("share of the limit", "%", [100 * work * speed / rate for speed in speeds])


def take_turns(sides: list[Side], count: int, precision: str) -> tuple[list[list[Turn]], float]:
    """Return the turns of each side and the peak rate of matrix products measured between them.

    The side that runs first alternates from turn to turn.
    """
    turns: list[list[Turn]] = [[] for _ in sides]
    rate = 0.0
    for number in range(count):
        rate = max(rate, product_rate(precision))
        numbers = range(len(sides))
        for which in numbers if number % 2 else reversed(numbers):
            turns[which].append(sides[which].turn())
    return turns, rate


def compare(job: Job, turns: list[list[Turn]], ends: list[Turn], per_pair: int) -> list[Figure]:
    """Return the tokens/s of each pair and the peak memory of each process."""
    ours, theirs = (speeds(job, side[UNTIMED:], per_pair) for side in turns)
    memory = [[end["peak_memory"] / 1e6] for end in ends]
    return [Figure("speed", "tokens/s", ours, theirs), Figure("peak memory", "MB", *memory)]


def speeds(job: Job, turns: list[Turn], per_pair: int) -> list[float]:
    """Return the tokens/s of each group of `per_pair` consecutive turns."""
    seconds = [turn["seconds"] for turn in turns]
    tokens = job.batch * job.block * per_pair
    return [tokens / sum(seconds[i : i + per_pair]) for i in range(0, len(seconds), per_pair)]


def first_step(turns: list[Turn]) -> Figure:
    """Return how many seconds longer the first step takes than the median of the others."""
    first, *others = (turn["seconds"] for turn in turns)
    return Figure("first step, beyond the median", "s", [first - statistics.median(others)])


def compile_twice(job: Job, target: Target, pairs: int, folder: Path) -> list[Figure]:
    """Measure the first step with hardware.compile=true, with an empty and a filled cache."""
    names = ("first step, nothing cached", "first step, beyond the median")
    figures = []
    for name in names:
        with Side("ours", job.within(UNTIMED + pairs, folder)) as us:
            turns, _ = take_turns([us], UNTIMED + pairs, job.precision)
            figures.append(replace(first_step(turns[0]), name=name))
            us.end()
    return [figures[0], replace(figures[1], target=target)]


def track(job: Job, target: Target, pairs: int, folder: Path) -> list[Figure]:
    """Measure the share of step time spent on logging to MLflow, including sending."""
    count = UNTIMED + 2 * pairs
    with Side("ours", job.within(count, folder)) as us:
        turns, _ = take_turns([us], count, job.precision)
        us.end()
    timed = turns[0][UNTIMED:]
    share = sum(turn["tracking"] for turn in timed) / sum(turn["seconds"] for turn in timed)
    return [Figure("share of step time", "%", [100 * share], target=target)]
