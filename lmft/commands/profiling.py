"""`lmft profile`: where the time of a training step goes, on this machine and as configured."""

import os
from argparse import Namespace

from lmft.analysis.profiling.measure import PROFILED, WARM_UP, measure
from lmft.analysis.profiling.summary import report, show_speed
from lmft.config.build import read_config
from lmft.config.compose import compose
from lmft.dataset.splits import open_splits
from lmft.errors import UserError
from lmft.hardware.mfu import estimate_flops
from lmft.output.terminal import Screen
from lmft.runs.run_id import model_label
from lmft.trainer.components import build_components


def main(arguments: Namespace) -> None:
    """Run the command.

    Raises:
        UserError: something in the config can't be done.
        FloatingPointError: a loss or gradient is not finite.
    """
    # Else torch's profiler logs its own start and end.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    count = arguments.steps
    config, _ = read_config(compose(arguments.words))
    if config.dataset.train is None:
        raise UserError("dataset.train has no value; set it to a file, a folder or a glob.")
    console = Screen()
    with console.status("opening the corpus and the model"):
        components = build_components(config, open_splits(config.dataset, only=("train",)))
    hardware = components.hardware
    if hardware.device.type not in ("cpu", "cuda"):
        raise UserError(
            f"hardware.device is {hardware.device}, which torch's profiler can't measure; "
            "try hardware=cpu or hardware=cuda."
        )
    objective = components.batches["train"].objective
    flops = estimate_flops(components.network.model, hardware, causal=bool(objective.target_shift))
    with console.status(f"{WARM_UP + count + PROFILED} steps"):
        steps, memory, calls = measure(config, components, flops, count)
    show_speed(console, model_label(config.model), config, components, steps, flops, memory)
    report(console, calls, steps, config, components)
