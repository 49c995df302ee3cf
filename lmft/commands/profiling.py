"""`lmft profile`: where the time of a training step goes, on this machine and as configured."""

import os
from argparse import Namespace

from lmft.analysis.profiling.measure import PROFILED, WARM_UP, measure
from lmft.analysis.profiling.summary import report, show_speed
from lmft.config.compose import compose_run
from lmft.errors import UserError
from lmft.output.terminal import Screen, Terminal, counted
from lmft.runs.run import Run
from lmft.trainer.components import build_components
from lmft.trainer.training import start_training


def main(arguments: Namespace) -> None:
    """Run the command.

    Raises:
        UserError: something in the config can't be done.
        FloatingPointError: a loss or gradient is not finite.
    """
    # Else torch's profiler logs its own start and end.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    count = arguments.steps
    run = Run(*compose_run(arguments.words))
    run.check_training_text()
    console = Screen()
    with Terminal(console).status("opening the corpus and the model"):
        components = build_components(run.config, {"train": run.splits["train"]})
    device = components.hardware.device
    if device.type not in ("cpu", "cuda"):
        raise UserError(
            f"hardware.device is {device}, which torch's profiler can't measure; "
            "try hardware=cpu or hardware=cuda."
        )
    training = start_training(run.config, components)
    with Terminal(console).status(counted(WARM_UP + count + PROFILED, "step")):
        measured = measure(training, count)
    show_speed(console, training, measured)
    report(console, training, measured)
