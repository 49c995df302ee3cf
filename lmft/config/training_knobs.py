"""The knobs of the `trainer`, `evaluation` and `hardware` groups, and choices of `tracker`.

Defaults are in `conf/`, once. Nothing heavy is imported here.
"""

import math
from dataclasses import dataclass, field
from enum import Enum

from lmft.config.knob_metadata import HUGE, Decides, count, knob, positive
from lmft.config.text_words import PREFIXES, check_word
from lmft.errors import UserError

AUTO = "auto"  # hardware.micro_batch_size: the largest that fits; hardware.compile: by run length


class LogModel(Enum):
    """Which weights of a run a tracker gets as a logged model."""

    best = "best"
    none = "none"


class Schedule(Enum):
    """How the learning rate goes after warm-up."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant"


class OnNonfinite(Enum):
    """What becomes of a step whose loss, or whose gradient's norm, is not finite."""

    stop = "stop"  # the run has failed
    skip = "skip"  # nothing is learnt of it


@dataclass
class TrainerConfig:
    """The `trainer` group."""

    epochs: float = field(metadata=knob(positive(1_000_000)))
    # optimizer steps; training stops at whichever comes first
    max_steps: int | None = field(metadata=knob(count(1, None)))
    batch_size: int = field(metadata=knob(count(1)))  # blocks an optimizer step
    schedule: Schedule
    warmup_steps: int = field(metadata=knob(count(0, most=10**24)))  # optimizer steps
    # null: gradients are not clipped
    max_grad_norm: float | None = field(metadata=knob(positive(HUGE, None)))
    on_nonfinite: OnNonfinite
    # optimizer steps; null: an epoch
    evaluate_every: int | None = field(metadata=knob(count(1, None)))
    # evaluations in a row without a better one; null: no early stop
    patience: int | None = field(metadata=knob(count(1, None)))
    shuffle: bool  # false: blocks in file order
    # optimizer steps; null: by the clock alone
    checkpoint_every: int | None = field(metadata=knob(count(1, None), Decides.speed))
    # null: not by the clock
    checkpoint_minutes: float | None = field(
        metadata=knob(positive(1_000_000, None), Decides.speed)
    )
    # the last weights and optimizer state, after the end
    keep_state: bool = field(metadata=knob(decides=Decides.location, formerly=False))

    def steps(self, per_epoch: int) -> int:
        """Optimizer steps to take, with `per_epoch` of them an epoch."""
        by_epochs = math.ceil(self.epochs * per_epoch)
        return by_epochs if self.max_steps is None else min(by_epochs, self.max_steps)


class WindowRule(Enum):
    """How windows are cut from a token stream."""

    strided = "strided"  # a stride apart, each with the prefix in front; the last is shorter
    rolling = "rolling"  # as lm-evaluation-harness: the last one is full too, and begins earlier


@dataclass
class EvaluationConfig:
    """The `evaluation` group."""

    # that `lmft evaluate` scores; null: test, else validation
    split: str | None = field(metadata=knob(decides=Decides.scoring))
    # tokens a window; null: the block size
    context: int | None = field(metadata=knob(count(2, None)))
    # tokens from one window to the next; null: the context
    stride: int | None = field(metadata=knob(count(1, None)))
    # in front of each window, read but not scored (clm): none, bos, or a text
    prefix: str = field(metadata=knob(formerly="none"))
    windows: WindowRule = field(metadata=knob(formerly="strided"))
    # only the first so many windows; null: all
    max_blocks: int | None = field(metadata=knob(count(1, None)))
    # frozen draws of masks (mlm) that `lmft evaluate` scores
    mask_draws: int = field(metadata=knob(count(1, most=1_000_000), Decides.scoring))
    pseudo: bool  # mlm: hide each token once, alone, instead

    def __post_init__(self) -> None:
        if self.split not in (None, "train", "validation", "test"):
            raise UserError(
                f"evaluation.split is {self.split!r}; choose train, validation or test."
            )
        check_word("evaluation.prefix", self.prefix, PREFIXES)


class Precision(Enum):
    """The number format that a model computes in; the weights that learn stay in fp32."""

    auto = "auto"  # bf16 where it is native, else fp16 on NVIDIA GPUs and fp32 elsewhere
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"  # with loss scaling


class Strategy(Enum):
    """How several processes share a run."""

    none = "none"  # one process
    ddp = "ddp"  # each has the whole model, and a share of every batch
    fsdp = "fsdp"  # each has a share of weights, gradients and optimizer state as well


@dataclass
class HardwareConfig:
    """The `hardware` group."""

    # cpu, cuda, cuda:1, mps; auto: the first found of cuda, mps, cpu
    device: str = field(metadata=knob(decides=Decides.speed))
    strategy: Strategy = field(metadata=knob(decides=Decides.speed))
    # on this machine; null: one for each GPU, or as torchrun started them
    processes: int | None = field(metadata=knob(count(1, None, most=1024), Decides.speed))
    precision: Precision
    # blocks in memory at once; auto: halved until they fit; null: auto on a GPU, else 8
    micro_batch_size: int | str | None = field(metadata=knob(count(1, AUTO, None), Decides.speed))
    # with torch.compile: a slower start, faster steps; auto: long runs on CUDA
    compile: bool | str = field(metadata=knob(decides=Decides.speed))
    # kernels that compute the same bits each time; a CPU has no others
    deterministic: bool = field(metadata=knob(formerly=True))
    # recomputed in the backward pass
    checkpoint_activations: bool = field(metadata=knob(decides=Decides.speed))

    def __post_init__(self) -> None:
        if self.compile not in (True, False, AUTO):
            raise UserError(
                f"hardware.compile is {self.compile!r}; choose true, false or auto (for long runs "
                "on an NVIDIA GPU)."
            )
        if self.micro_batch_size == AUTO and self.strategy is not Strategy.none:
            raise UserError(
                "hardware.micro_batch_size is auto, which is for one process alone; set it to a "
                f"number with hardware={self.strategy.value}."
            )
        if self.strategy is Strategy.none and (self.processes or 1) > 1:
            raise UserError(
                f"hardware.processes is {self.processes}, but one process trains alone; "
                "add hardware=ddp or hardware=fsdp."
            )
        if self.strategy is Strategy.fsdp and self.precision is Precision.fp16:
            raise UserError(
                "hardware.precision is fp16, which hardware=fsdp can't scale; choose bf16 or fp32."
            )
