"""The story of `lmft profile`: where does a training step's time go, here and as configured?"""

import os
from pathlib import Path

from lmft.analysis.profiling.measure import WARM_UP, WATCHED, measure
from lmft.analysis.profiling.summary import report, show_speed
from lmft.config.build import read_config
from lmft.config.compose import compose
from lmft.dataset.splits import open_splits
from lmft.errors import UserError
from lmft.hardware.mfu import find_limit
from lmft.output.terminal import Screen
from lmft.runs.run_id import model_label
from lmft.trainer.components import build_components


def tell(words: list[str], conf: Path) -> None:
    """The command: `lmft profile [steps=5] [GROUP=CHOICE ...] [KNOB=VALUE ...]`.

    Raises:
        UserError: something in the config can't be done.
        FloatingPointError: a loss or gradient is not finite.
    """
    # torch's profiler would tell of its own start and end.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    count, knobs = read_steps(words)
    config, _ = read_config(compose(conf, knobs))
    if config.dataset.train is None:
        raise UserError("dataset.train has no value; set it to a file, a folder or a glob.")
    console = Screen()
    with console.status("opening the corpus and the model"):
        components = build_components(config, open_splits(config.dataset, only=("train",)))
    hardware = components.hardware
    if hardware.device.type not in ("cpu", "cuda"):
        raise UserError(
            f"hardware.device is {hardware.device}, where torch can't be watched; "
            "try hardware=cpu or hardware=cuda."
        )
    objective = components.batches["train"].objective
    limit = find_limit(components.network.model, hardware, causal=bool(objective.target_shift))
    with console.status(f"{WARM_UP + count + WATCHED} steps"):
        measured, memory, operations = measure(config, components, limit, count)
    show_speed(console, model_label(config.model), config, components, measured, limit, memory)
    report(console, operations, measured, config, components)


def read_steps(words: list[str]) -> tuple[int, list[str]]:
    """How many steps to measure, and the other words.

    Raises:
        UserError: it is no such number.
    """
    given = [word.removeprefix("steps=") for word in words if word.startswith("steps=")]
    count = given[-1] if given else "5"
    if not (count.isdecimal() and 1 <= int(count) <= 1000):
        raise UserError(f"steps must be a number from 1 to 1000, not {count!r}.")
    return int(count), [word for word in words if not word.startswith("steps=")]
