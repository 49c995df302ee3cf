"""`lmft verify batch`: do micro-batches of every size give the same steps, to rounding?"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lmft.config.build import read_config
from lmft.config.compose import compose
from lmft.config.schema import Precision, RunConfig
from lmft.dataset.splits import Split, open_splits
from lmft.errors import UserError, VerificationError
from lmft.hardware.mfu import find_limit
from lmft.optimizer import build_optimizer
from lmft.trainer.components import build_components
from lmft.trainer.step import train

STEPS = 5  # unless trainer.max_steps is given

# How far rounding may take a step's loss or gradient norm, relative to its size. One number of bf16
# is rounded by up to 2**-8; that hides slight mistakes, so fp32 is the sharper proof.
BOUNDS = {Precision.fp32: 1e-4, Precision.fp16: 1e-3, Precision.bf16: 4e-3}

TINY = 1e-12  # in place of smaller numbers, which nothing can be relative to

MEASURES = ("loss", "gradient norm")


def verify_batch(words: list[str], conf: Path, console: Console) -> None:
    """Take the same steps with micro-batches of several sizes, and compare each with size 1.

    Raises:
        UserError: the run can't be started.
        Differs: a size gives other numbers.
    """
    composed = compose(conf, [f"trainer.max_steps={STEPS}", *words, "model.dropout=0"])
    config, _ = read_config(composed)
    splits = open_splits(config.dataset, only=("train",))
    if not splits:
        raise UserError("dataset.train has no value; set it to a file, a folder or a glob.")
    first, *others = choose_sizes(config.trainer.batch_size)
    console.print("With model.dropout=0, since each micro-batch has dice of its own.")
    expected, precision = measure(config, splits, first, console)
    apart = {
        size: relative_difference(measure(config, splits, size, console)[0], expected)
        for size in others
    }
    show(apart, console)
    bound, most = BOUNDS[precision], max(found.max() for found in apart.values())
    told = f"{len(expected)} steps with micro-batches of 1"
    for size, found in apart.items():
        if not found.max() <= bound:
            step, number = np.argwhere(~(found <= bound))[0]
            raise VerificationError(
                f"{told} and of {size} differ from step {step + 1} on: the {MEASURES[number]} by "
                f"{found[step, number]:.1e} of its size, where {precision.value} explains "
                f"{bound:.0e}."
            )
    sizes = ", ".join(map(str, others))
    text = (
        f"Equal to rounding: {told} and of {sizes} differ by at most {most:.1e} of a number's "
        f"size; the bound for {precision.value} is {bound:.0e}."
    )
    if precision is not Precision.fp32:
        text += " hardware.precision=fp32 is the sharper proof."
    console.print(Text(text, "bold"), soft_wrap=True)


def choose_sizes(batch_size: int) -> list[int]:
    """The powers of two up to `batch_size`, the least that does not divide it, and itself.

    Raises:
        UserError: there is only one.
    """
    if batch_size == 1:
        raise UserError("trainer.batch_size is 1, which can't be split; set it to 2 or more.")
    powers = {2**power for power in range(batch_size.bit_length())}
    uneven = next((size for size in range(2, batch_size) if batch_size % size), 1)
    return sorted({*powers, uneven, batch_size})


def measure(
    config: RunConfig, splits: dict[str, Split], size: int, console: Console
) -> tuple[np.ndarray, Precision]:
    """Loss and gradient norm of each step (steps, 2), and in which precision."""
    config = replace(config, hardware=replace(config.hardware, micro_batch_size=size))
    with console.status(f"hardware.micro_batch_size={size}"):
        components = build_components(config, splits)
        batches, trainer = components.batches["train"], config.trainer
        steps = train(
            components.network,
            batches.training(trainer.batch_size, config.seed, trainer.shuffle),
            build_optimizer(config.optimizer, components.network.model),
            components.hardware,
            trainer,
            range(1, trainer.steps(batches.steps_per_epoch(trainer.batch_size)) + 1),
            config.seed,
            find_limit(
                components.network.model, components.hardware, bool(batches.objective.target_shift)
            ),
        )
        measured = np.array([(step.loss.mean, step.grad_norm) for step in steps])
    return measured, components.hardware.precision


def relative_difference(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """How far two arrays of one shape are apart, relative to the second."""
    apart: np.ndarray = np.abs(found - expected) / np.maximum(np.abs(expected), TINY)
    return apart


def show(apart: dict[int, np.ndarray], console: Console) -> None:
    """The largest relative difference from micro-batches of 1, for each size."""
    table = Table("micro-batch", box=None, header_style="bold", pad_edge=False)
    for name in MEASURES:
        table.add_column(f"{name}, relative to 1's", justify="right")
    for size, found in apart.items():
        table.add_row(str(size), *(f"{largest:.1e}" for largest in found.max(axis=0)))
    console.print(table)
