"""`lmft verify batch`: prove that the micro-batch size changes a step only by rounding."""

from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lmft.config.compose import compose_run
from lmft.config.training_knobs import Precision
from lmft.errors import UserError, VerificationError
from lmft.output.terminal import Terminal, print_sentence
from lmft.runs.run import Run
from lmft.trainer.components import build_components
from lmft.trainer.step import training_steps
from lmft.trainer.training import start_training

STEPS = 5  # unless trainer.max_steps is given

# The largest relative difference of a loss or gradient norm that rounding explains. bf16 rounds a
# number by up to 2**-8, which can hide small errors, so fp32 is the stricter test.
BOUNDS = {Precision.fp32: 1e-4, Precision.fp16: 1e-3, Precision.bf16: 4e-3}
TINY = 1e-12  # replaces smaller numbers as a denominator
MEASURES = ("loss", "gradient norm")


def verify_batch(words: list[str], console: Console) -> None:
    """Take the same steps with micro-batches of several sizes, and compare each with size 1.

    Raises:
        UserError: the run can't be started.
        VerificationError: a size gives other numbers.
    """
    run = Run(*compose_run([f"trainer.max_steps={STEPS}", *words, "model.dropout=0"]))
    run.check_training_text()
    first, *others = choose_sizes(run.config.trainer.batch_size)
    console.print("model.dropout=0, since each micro-batch draws its own dropout mask.")
    expected, precision = measure(run, first, console)
    differences = {
        size: relative_difference(measure(run, size, console)[0], expected) for size in others
    }
    show(differences, console)
    bound, largest = BOUNDS[precision], max(values.max() for values in differences.values())
    compared = f"{len(expected)} steps with micro-batches of 1"
    for size, values in differences.items():
        if not values.max() <= bound:
            step, number = np.argwhere(~(values <= bound))[0]
            raise VerificationError(
                f"{compared} and of {size} differ from step {step + 1} on: the {MEASURES[number]} "
                f"by a relative {values[step, number]:.1e}, where rounding in {precision.value} "
                f"explains {bound:.0e}."
            )
    sizes = ", ".join(map(str, others))
    text = (
        f"Equal to rounding: {compared} and of {sizes} differ by at most a relative {largest:.1e}; "
        f"the bound for {precision.value} is {bound:.0e}."
    )
    if precision is not Precision.fp32:
        text += " hardware.precision=fp32 is the stricter test."
    print_sentence(Text(text, "bold"), console)


def choose_sizes(batch_size: int) -> list[int]:
    """Return the powers of two up to `batch_size`, its smallest non-divisor, and itself.

    Raises:
        UserError: the batch size is 1.
    """
    if batch_size == 1:
        raise UserError("trainer.batch_size is 1, which can't be split; set it to 2 or more.")
    powers = {2**power for power in range(batch_size.bit_length())}
    uneven = next((size for size in range(2, batch_size) if batch_size % size), 1)
    return sorted({*powers, uneven, batch_size})


def measure(run: Run, size: int, console: Console) -> tuple[np.ndarray, Precision]:
    """Return loss and gradient norm of each step (steps, 2), and the precision.

    Args:
        run: whose steps to take.
        size: of a micro-batch, in blocks.
        console: shows progress.
    """
    hardware = replace(run.config.hardware, micro_batch_size=size)
    config = replace(run.config, hardware=hardware)
    with Terminal(console).status(f"hardware.micro_batch_size={size}"):
        components = build_components(config, {"train": run.splits["train"]})
        steps = training_steps(start_training(config, components))
        measured = np.array([(step.loss.mean, step.grad_norm) for step in steps])
    return measured, components.hardware.precision


def relative_difference(values: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the absolute difference of two arrays of one shape, relative to `expected`."""
    difference: np.ndarray = np.abs(values - expected) / np.maximum(np.abs(expected), TINY)
    return difference


def show(differences: dict[int, np.ndarray], console: Console) -> None:
    """Print the largest relative difference to micro-batches of 1, for each size."""
    table = Table("micro-batch", box=None, header_style="bold", pad_edge=False)
    for name in MEASURES:
        table.add_column(f"{name}, relative to 1's", justify="right")
    for size, values in differences.items():
        table.add_row(str(size), *(f"{largest:.1e}" for largest in values.max(axis=0)))
    console.print(table)
