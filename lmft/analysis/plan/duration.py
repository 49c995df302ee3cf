"""Count the work of a run, and measure how fast this machine does it."""

import statistics
import time
from dataclasses import dataclass, replace

from lmft.config.schema import RunConfig
from lmft.hardware.memory import reset_used_memory, used_memory
from lmft.hardware.mfu import estimate_flops
from lmft.optimizer import build_optimizer
from lmft.trainer.components import Components
from lmft.trainer.evaluate import score, windows_of
from lmft.trainer.step import train

WARM_UP, MEASURED = 1, 3  # steps
WINDOW_BATCHES = 2  # micro-batches of windows to score


@dataclass(frozen=True)
class Workload:
    """What a run does from its start to its end."""

    steps: int  # optimizer steps, at most
    evaluations: int  # of the validation split, the first before step 1
    windows: int  # scored in all evaluations, and once on the test split


@dataclass(frozen=True)
class Timing:
    """Seconds that one process takes."""

    step: float  # one optimizer step
    window: float  # scoring one window

    def total(self, work: Workload) -> float:
        """Return the seconds of a whole run."""
        return self.step * work.steps + self.window * work.windows


def count_work(config: RunConfig, components: Components) -> Workload:
    """Return the work that follows from the corpus and the trainer's knobs."""
    trainer, batches = config.trainer, components.batches
    per_epoch = batches["train"].steps_per_epoch(trainer.batch_size)
    steps = trainer.steps(per_epoch)
    evaluations = 1 + -(-steps // (trainer.evaluate_every or per_epoch))
    windows = {
        name: len(windows_of(name, config, components)) for name in batches if name != "train"
    }
    total = evaluations * windows["validation"] + windows.get("test", 0)
    return Workload(steps, evaluations, total)


def measure_timing(config: RunConfig, components: Components, size: int) -> tuple[Timing, int]:
    """Take a few steps with micro-batches of `size` blocks, and score a few windows.

    Returns:
        The timing, and the peak of used memory in bytes.
    """
    trainer, network = config.trainer, components.network
    batches = components.batches["train"]
    hardware = replace(components.hardware, micro_batch_size=size)
    flops = estimate_flops(network.model, hardware, causal=bool(batches.objective.target_shift))
    reset_used_memory(hardware.device)  # excludes the large matrices of estimate_flops
    steps = train(
        network,
        batches.training(trainer.batch_size, config.seed, trainer.shuffle),
        build_optimizer(config.optimizer, network.model),
        hardware,
        trainer,
        range(1, WARM_UP + MEASURED + 1),
        config.seed,
        flops,
    )
    seconds, used = [], 0
    for step in steps:
        seconds.append(step.seconds)
        used = max(used, used_memory(hardware.device))
    window = time_window(config, replace(components, hardware=hardware))
    used = max(used, used_memory(hardware.device))
    return Timing(statistics.median(seconds[WARM_UP:]), window), used


def time_window(config: RunConfig, components: Components) -> float:
    """Return the seconds that it takes to score a window of the validation split."""
    pseudo, size = config.evaluation.pseudo, components.hardware.micro_batch_size
    count = min(
        1 if pseudo else WINDOW_BATCHES * size, len(windows_of("validation", config, components))
    )
    limited = replace(config, evaluation=replace(config.evaluation, max_blocks=count))
    score("validation", limited, components)  # warm-up
    started = time.perf_counter()
    score("validation", limited, components)
    return (time.perf_counter() - started) / count
