"""The story of `lmft plan`: what would a run take, before anything of it starts?"""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from lmft.analysis.plan.duration import find_work
from lmft.analysis.plan.estimate import (
    find_disk,
    optimizer_bytes,
    weight_bytes,
)
from lmft.analysis.plan.rehearsal import load_libraries, rehearse
from lmft.analysis.plan.report import advise, show
from lmft.config.build import build, check_types
from lmft.config.compose import compose
from lmft.config.schema import RunConfig, Strategy
from lmft.dataset.splits import open_splits
from lmft.errors import UserError
from lmft.hardware.memory import start_count, used_memory
from lmft.hardware.ranks import count_processes
from lmft.output.terminal import Screen
from lmft.trainer.components import build_components


def tell(words: list[str], conf: Path) -> None:
    """The command: `lmft plan [GROUP=CHOICE ...] [KNOB=VALUE ...]`.

    Raises:
        UserError: something in the config can't be done.
        FloatingPointError: a loss or gradient is not finite.
    """
    typed = check_types(compose(conf, words))
    config: RunConfig = build(typed)
    processes = count_processes(config.hardware)
    splits = open_splits(config.dataset)
    if "train" not in splits:
        raise UserError("dataset.train has no value; set it to a file, a folder or a glob.")
    console = Screen()
    with console.status("opening the corpus and the model"):
        load_libraries(config)
        components = build_components(config, splits)
        start_count(components.hardware.device)
    if processes > 1 and config.hardware.strategy is Strategy.fsdp:  # which keeps all outputs
        components = replace(
            components, network=replace(components.network, recompute_hooks=nullcontext())
        )
    with console.status("a few steps"):
        process = used_memory(components.hardware.device) - weight_bytes(components.network.models)
        optimizer = optimizer_bytes(config, components.network)
        memory, pace = rehearse(config, components, processes, max(0, process), optimizer)
    work, disk = find_work(config, components), find_disk(config, components, optimizer)
    show(console, config, components, processes, memory, work, pace, disk)
    for sentence in advise(config, components, processes, memory, disk):
        console.print(sentence, style="yellow", soft_wrap=True)
