"""`lmft plan`: what a run would take, before anything of it starts."""

from argparse import Namespace
from contextlib import nullcontext
from dataclasses import replace

from rich.text import Text

from lmft.analysis.plan.duration import count_work
from lmft.analysis.plan.estimate import (
    estimate_disk_space,
    optimizer_bytes,
    weight_bytes,
)
from lmft.analysis.plan.report import advise, show
from lmft.analysis.plan.trial_steps import load_libraries, run_trial_steps
from lmft.config.compose import compose_run
from lmft.config.training_knobs import Strategy
from lmft.hardware.memory import context_memory, reset_used_memory, used_memory
from lmft.hardware.ranks import count_processes
from lmft.output.terminal import Screen, Terminal, print_sentence
from lmft.runs.run import Run
from lmft.trainer.components import build_components


def main(arguments: Namespace) -> None:
    """Run the command.

    Raises:
        UserError: something in the config can't be done.
        FloatingPointError: a loss or gradient is not finite.
    """
    run = Run(*compose_run(arguments.words))
    config = run.config
    processes = count_processes(config.hardware)
    run.check_training_text()
    console = Screen()
    with Terminal(console).status("opening the corpus and the model"):
        load_libraries(config)
        components = build_components(config, run.splits)
        reset_used_memory(components.hardware.device)
    if processes > 1 and config.hardware.strategy is Strategy.fsdp:  # which keeps all outputs
        components = replace(
            components, network=replace(components.network, recompute_hooks=nullcontext())
        )
    with Terminal(console).status("a few steps"):
        device = components.hardware.device
        process = used_memory(device) - weight_bytes(components.network.models)
        process += context_memory(device)
        optimizer = optimizer_bytes(config, components.network)
        memory, timing = run_trial_steps(config, components, processes, max(0, process), optimizer)
    work, disk = count_work(config, components), estimate_disk_space(config, components, optimizer)
    show(console, config, components, processes, memory, work, timing, disk)
    for sentence in advise(config, components, processes, memory, disk):
        print_sentence(Text(sentence, "yellow"), console)
