"""Count the work of a run, and measure how fast this machine does it."""

import statistics
import time
from dataclasses import dataclass, replace

from lmft.config.schema import RunConfig
from lmft.evaluation.scoring import score
from lmft.evaluation.windows import windows_of
from lmft.hardware.memory import reset_used_memory, used_memory
from lmft.hardware.transfer import queues_work
from lmft.trainer.components import Components
from lmft.trainer.step import read_late, take_steps
from lmft.trainer.training import start_training

STEPS = 1, 3  # to warm up, and measured
GPU_STEPS = 4, 10  # the first ones are recorded as a CUDA graph
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
        name: len(windows_of(batches[name], config.evaluation))
        for name in batches
        if name != "train"
    }
    total = evaluations * windows["validation"] + windows.get("test", 0)
    return Workload(steps, evaluations, total)


def measure_timing(config: RunConfig, components: Components, size: int) -> tuple[Timing, int]:
    """Take a few steps with micro-batches of `size` blocks, and score a few windows.

    Returns:
        The timing, and the peak of used memory in bytes.
    """
    hardware = replace(components.hardware, micro_batch_size=size)
    training = start_training(config, replace(components, hardware=hardware))
    reset_used_memory(hardware.device)  # excludes the large matrices that measure the throughput
    count = GPU_STEPS if queues_work(hardware.device) else STEPS
    steps = take_steps(training, last=sum(count))
    seconds, used = [], 0
    for step in read_late(training, steps):
        seconds.append(step.seconds)
        used = max(used, used_memory(hardware.device))
    window = time_window(config, training.components)
    used = max(used, used_memory(hardware.device))
    return Timing(statistics.median(seconds[count[0] :]), window), used


def time_window(config: RunConfig, components: Components) -> float:
    """Return the seconds that it takes to score a window of the validation split."""
    pseudo, size = config.evaluation.pseudo, components.hardware.micro_batch_size
    batches = components.batches["validation"]
    count = min(1 if pseudo else WINDOW_BATCHES * size, len(windows_of(batches, config.evaluation)))
    windows = windows_of(batches, replace(config.evaluation, max_blocks=count))
    score(components.network, batches, components.hardware, windows)  # warm-up
    started = time.perf_counter()
    score(components.network, batches, components.hardware, windows)
    return (time.perf_counter() - started) / count
