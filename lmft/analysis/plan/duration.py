"""How much a run has to do, and how fast this machine does it."""

import statistics
import time
from dataclasses import dataclass, replace

from lmft.config.schema import RunConfig
from lmft.hardware.memory import start_count, used_memory
from lmft.hardware.mfu import find_limit
from lmft.optimizer import build_optimizer
from lmft.trainer.components import Components
from lmft.trainer.evaluate import score, windows_of
from lmft.trainer.step import train

WARM_UP, MEASURED = 1, 3  # steps

WINDOWS = 2  # micro-batches of them that are scored


@dataclass(frozen=True)
class Work:
    """What a run does from its start to its end."""

    steps: int  # optimizer steps, at most
    evaluations: int  # of the validation split, the first before step 1
    windows: int  # scored in all of them, and once on the test split


@dataclass(frozen=True)
class Pace:
    """Seconds in one process."""

    step: float
    window: float  # scored

    def seconds(self, work: Work) -> float:
        """Of a whole run."""
        return self.step * work.steps + self.window * work.windows


def find_work(config: RunConfig, components: Components) -> Work:
    """What follows from the corpus and the trainer's knobs."""
    trainer, batches = config.trainer, components.batches
    per_epoch = batches["train"].steps_per_epoch(trainer.batch_size)
    steps = trainer.steps(per_epoch)
    evaluations = 1 + -(-steps // (trainer.evaluate_every or per_epoch))
    windows = {
        name: len(windows_of(name, config, components)) for name in batches if name != "train"
    }
    return Work(steps, evaluations, evaluations * windows["validation"] + windows.get("test", 0))


def measure_pace(config: RunConfig, components: Components, size: int) -> tuple[Pace, int]:
    """Take a few steps with micro-batches of `size` blocks, and score a few windows.

    Returns:
        The pace, and the memory used at the highest, in bytes.
    """
    trainer, network = config.trainer, components.network
    batches = components.batches["train"]
    hardware = replace(components.hardware, micro_batch_size=size)
    limit = find_limit(network.model, hardware, causal=bool(batches.objective.target_shift))
    start_count(hardware.device)  # the limit was measured on large matrices
    steps = train(
        network,
        batches.training(trainer.batch_size, config.seed, trainer.shuffle),
        build_optimizer(config.optimizer, network.model),
        hardware,
        trainer,
        range(1, WARM_UP + MEASURED + 1),
        config.seed,
        limit,
    )
    seconds, used = [], 0
    for step in steps:
        seconds.append(step.seconds)
        used = max(used, used_memory(hardware.device))
    window = time_window(config, replace(components, hardware=hardware))
    used = max(used, used_memory(hardware.device))
    return Pace(statistics.median(seconds[WARM_UP:]), window), used


def time_window(config: RunConfig, components: Components) -> float:
    """Seconds to score a window of the validation split."""
    most = 1 if config.evaluation.pseudo else WINDOWS * components.hardware.micro_batch_size
    count = min(most, len(windows_of("validation", config, components)))
    few = replace(config, evaluation=replace(config.evaluation, max_blocks=count))
    score("validation", few, components)  # the first time, more is done
    started = time.perf_counter()
    score("validation", few, components)
    return (time.perf_counter() - started) / count
