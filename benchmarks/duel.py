"""Rows in which two processes take turns."""

import statistics
from dataclasses import replace
from pathlib import Path

from benchmarks.figures import Figure, Target
from benchmarks.limit import operations, product_rate
from benchmarks.turns import Job, Side

UNTIMED = 2  # turns in which memory is first touched and code compiled
Targets = dict[str, Target]  # by the figure's name
Turn = dict[str, float]  # what a side measured in a turn, `seconds` among it


def train_in_turns(
    ours: Job, theirs: Job, turns_a_pair: int, targets: Targets, pairs: int, folder: Path
) -> list[Figure]:
    """Speed, memory, first step and share of the limit of our training, beside theirs."""
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
    """Speed and memory of scoring so many blocks, batch by batch: each batch is a pair."""
    count = blocks // ours.batch
    with (
        Side("ours", ours.within(count, folder)) as us,
        Side("peer", theirs.within(count, folder)) as them,
    ):
        turns, _ = take_turns([us, them], count, ours.precision)
        figures = compare(ours, turns, [us.end(), them.end()], 1)
    return [replace(figure, target=targets.get(figure.name)) for figure in figures]


def train_alone(job: Job, targets: Targets, pairs: int, folder: Path) -> list[Figure]:
    """Share of the limit where no other process empties the processor's caches meanwhile."""
    count = UNTIMED + 4 * pairs
    with Side("ours", job.within(count, folder)) as us:
        turns, rate = take_turns([us], count, job.precision)
        us.end()
    figure = share_of_limit(job, us, speeds(job, turns[0][UNTIMED:], 4), rate)
    return [replace(figure, target=targets.get(figure.name))]


def share_of_limit(job: Job, side: Side, speeds: list[float], rate: float) -> Figure:
    """Of the operations that matrix products could have done in the time, each speed's."""
    work = operations(**side.facts, block=job.block, tokens=1)
    return Figure("share of the limit", "%", [100 * work * speed / rate for speed in speeds])


def take_turns(sides: list[Side], count: int, precision: str) -> tuple[list[list[Turn]], float]:
    """All turns of each side, and the machine's best rate of matrix products meanwhile.

    The side that goes first changes from turn to turn.
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
    """Tokens a second, pair by pair, and the peak memory of each process."""
    ours, theirs = (speeds(job, side[UNTIMED:], per_pair) for side in turns)
    memory = [[end["peak_memory"] / 1e6] for end in ends]
    return [Figure("speed", "tokens/s", ours, theirs), Figure("peak memory", "MB", *memory)]


def speeds(job: Job, turns: list[Turn], per_pair: int) -> list[float]:
    """Tokens a second of each `per_pair` turns."""
    seconds = [turn["seconds"] for turn in turns]
    tokens = job.batch * job.block * per_pair
    return [tokens / sum(seconds[i : i + per_pair]) for i in range(0, len(seconds), per_pair)]


def first_step(turns: list[Turn]) -> Figure:
    """How much longer it takes than the others."""
    first, *others = (turn["seconds"] for turn in turns)
    return Figure("first step, beyond the median", "s", [first - statistics.median(others)])


def compile_twice(job: Job, target: Target, pairs: int, folder: Path) -> list[Figure]:
    """What a run's first step takes with hardware.compile=true, once its code is cached."""
    names = ("first step, nothing cached", "first step, beyond the median")
    figures = []
    for name in names:
        with Side("ours", job.within(UNTIMED + pairs, folder)) as us:
            turns, _ = take_turns([us], UNTIMED + pairs, job.precision)
            figures.append(replace(first_step(turns[0]), name=name))
            us.end()
    return [figures[0], replace(figures[1], target=target)]


def track(job: Job, target: Target, pairs: int, folder: Path) -> list[Figure]:
    """What part of a step's time its notes to MLflow take, sending included."""
    count = UNTIMED + 2 * pairs
    with Side("ours", job.within(count, folder)) as us:
        turns, _ = take_turns([us], count, job.precision)
        us.end()
    timed = turns[0][UNTIMED:]
    share = sum(turn["tracking"] for turn in timed) / sum(turn["seconds"] for turn in timed)
    return [Figure("share of step time", "%", [100 * share], target=target)]
