"""Rows measured in live processes, step by step, one process after the other.

A pair is a process of lmft and one of the other side; the side that runs first alternates. Nothing
else runs meanwhile: where two processes take turns step by step, each finds the caches filled with
the other's numbers, and its threads asleep.
"""

import shutil
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.figures import Figure, Target
from benchmarks.limit import operations, product_rate
from benchmarks.turns import Job, Side

UNTIMED = 2  # warm-up turns: memory is allocated and code compiled
Targets = dict[str, Target]  # by name of the figure
Turn = dict[str, float]  # measurements of one turn, including `seconds`


def train_alternately(
    ours: Job, theirs: Job, steps: int, targets: Targets, pairs: int, folder: Path
) -> list[Figure]:
    """Compare training: speed, peak memory, first step and share of the limit (MFU)."""
    measured = [measure_pair(ours, theirs, UNTIMED + steps, n, folder) for n in range(pairs)]
    figures = compare(ours, measured)
    figures.append(first_step(measured[0][0].turns))
    if ours.objective == "clm" and not ours.rank:  # a frozen weight has no product of its own
        rate = max(side.rate for pair in measured for side in pair)
        figures.append(share_of_limit(ours, measured[0][0].facts, figures[0].ours, rate))
    return [replace(figure, target=targets.get(figure.name)) for figure in figures]


def evaluate_alternately(
    ours: Job, theirs: Job, blocks: int, targets: Targets, pairs: int, folder: Path
) -> list[Figure]:
    """Compare speed and peak memory of evaluating `blocks` blocks."""
    count = blocks // ours.batch
    measured = [measure_pair(ours, theirs, count, number, folder) for number in range(pairs)]
    figures = compare(ours, measured)
    return [replace(figure, target=targets.get(figure.name)) for figure in figures]


@dataclass(frozen=True)
class Measured:
    """What one process measured."""

    facts: dict[str, float]  # of the model
    turns: list[Turn]
    peak_memory: float  # bytes
    rate: float  # of matrix products, beside it


def measure_pair(
    ours: Job, theirs: Job, count: int, number: int, folder: Path
) -> tuple[Measured, Measured]:
    """Run a process of each side for `count` turns, in another order in every second pair."""
    own = folder / str(number)
    own.mkdir()
    if number:  # the blocks, which the first process of lmft has saved
        shutil.copy(folder / "0/blocks.npy", own)
    sides = {"ours": ours.within(count, own), "peer": theirs.within(count, own)}
    order = reversed(sides.items()) if number % 2 else sides.items()
    found = {module: run_alone(module, job) for module, job in order}
    return found["ours"], found["peer"]


def run_alone(module: str, job: Job) -> Measured:
    """Run all turns of a process while no other runs."""
    rate = product_rate(job.precision)
    with Side(module, job, patient=False) as side:
        turns = [side.turn() for _ in range(job.turns)]
        return Measured(side.facts, turns, side.end()["peak_memory"], rate)


def train_alone(job: Job, targets: Targets, pairs: int, folder: Path) -> list[Figure]:
    """Measure the share of the limit."""
    count = UNTIMED + 4 * pairs
    with Side("ours", job.within(count, folder)) as us:
        turns, rate = take_turns(us, count, job.precision)
        us.end()
    figure = share_of_limit(job, us.facts, speeds(job, turns[UNTIMED:], 4), rate)
    return [replace(figure, target=targets.get(figure.name))]


def share_of_limit(job: Job, facts: dict[str, float], speeds: list[float], rate: float) -> Figure:
    """Return the model FLOPs utilization: each speed as % of the peak rate of matrix products."""
    work = operations(**facts, block=job.block, tokens=1)
    return Figure("share of the limit", "%", [100 * work * speed / rate for speed in speeds])


def take_turns(side: Side, count: int, precision: str) -> tuple[list[Turn], float]:
    """Return the turns of a process and the peak rate of matrix products measured between them."""
    turns: list[Turn] = []
    rate = 0.0
    for _ in range(count):
        rate = max(rate, product_rate(precision))
        turns.append(side.turn())
    return turns, rate


def compare(job: Job, measured: list[tuple[Measured, Measured]]) -> list[Figure]:
    """Return the tokens/s and the peak memory of each process, pair by pair."""
    sides = list(zip(*measured, strict=True))
    first = 0 if job.evaluates else UNTIMED
    rates, memory = (
        [[of(one) for one in side] for side in sides]
        for of in (
            lambda one: speeds(job, one.turns[first:], len(one.turns) - first)[0],
            lambda one: one.peak_memory / 1e6,
        )
    )
    return [Figure("speed", "tokens/s", *rates), Figure("peak memory", "MB", *memory)]


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
            turns, _ = take_turns(us, UNTIMED + pairs, job.precision)
            figures.append(replace(first_step(turns), name=name))
            us.end()
    return [figures[0], replace(figures[1], target=target)]


def track(job: Job, target: Target, pairs: int, folder: Path) -> list[Figure]:
    """Measure the share of step time spent on logging to MLflow, including sending."""
    count = UNTIMED + 2 * pairs
    with Side("ours", job.within(count, folder)) as us:
        turns, _ = take_turns(us, count, job.precision)
        us.end()
    timed = turns[UNTIMED:]
    share = sum(turn["tracking"] for turn in timed) / sum(turn["seconds"] for turn in timed)
    return [Figure("share of step time", "%", [100 * share], target=target)]
