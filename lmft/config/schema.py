"""The knobs of each group, with their units; their defaults are in `conf/`, once.

The range of each number is in `lmft.config.ranges`. Nothing heavy is imported here, so that a
finished run can answer before torch is loaded.
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from lmft.errors import UserError
from lmft.storage.hub import locate

AUTO = "auto"  # hardware.micro_batch_size: the largest that fits

CORPUS = "corpus"  # model.tokenizer: trained on the training split


class DocumentRule(Enum):
    """What makes one document of the rows that a source gives."""

    auto = "auto"  # row for records, file for text, article for WikiText
    row = "row"
    file = "file"
    line = "line"
    blank_line = "blank_line"  # paragraphs, parted by blank lines
    article = "article"  # from one ` = Title = ` to the next


class TextErrors(Enum):
    """What becomes of bytes in files that are no text: NUL, and what is not UTF-8."""

    strict = "strict"  # they are refused
    replace = "replace"  # each is read as U+FFFD


@dataclass
class DatasetConfig:
    """The `dataset` group."""

    name: str  # as labels show it
    source: Any  # a lmft.dataset.sources.Source, by _target_
    train: str | None  # where the source keeps each split: a path, or the hub's name for it
    validation: str | None
    test: str | None
    validation_fraction: float  # of the training documents, held out if there is no validation
    text_column: str  # of records
    errors: TextErrors  # in files
    document: DocumentRule
    separator: str  # between documents: eos, none, model, or a text
    block_size: int  # tokens
    max_documents: int | None  # of each split; null: all


@dataclass
class ModelConfig:
    """The `model` group."""

    label: str | None  # for folder names and tables; null: the last part of `name`
    name: str | None  # a hub model, or a local folder
    revision: str  # of the hub model
    trust_remote_code: bool  # run the Python files that come with the model
    architecture: dict[str, Any] | None  # model_type and its config's values, if no name gives it
    from_scratch: bool  # the architecture with new weights
    config: dict[str, Any] | None  # changes to the architecture's config
    tokenizer: str | None  # a hub model or folder, or `corpus`; null: the model's own
    vocab_size: int  # of a tokenizer trained on the corpus
    dropout: float | None  # of every kind that the architecture has; null: its own

    def __post_init__(self) -> None:
        if self.name is None and not (self.from_scratch and self.architecture):
            raise UserError("model.name has no value; set it to a hub model or a local folder.")
        if self.tokenizer == CORPUS and not self.from_scratch:
            raise UserError(
                "model.tokenizer is 'corpus', but pretrained weights know only their own "
                "tokenizer; add model.from_scratch=true, or leave model.tokenizer out."
            )
        if self.tokenizer is None and self.name is None:
            raise UserError("model.tokenizer has no value; set model.tokenizer=corpus.")
        if self.name is not None:
            locate(self.name, "model.name")


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

    epochs: float
    max_steps: int | None  # optimizer steps; training stops at whichever comes first
    batch_size: int  # blocks an optimizer step
    schedule: Schedule
    warmup_steps: int  # optimizer steps
    max_grad_norm: float | None  # null: gradients are not clipped
    on_nonfinite: OnNonfinite
    evaluate_every: int | None  # optimizer steps; null: an epoch
    patience: int | None  # evaluations in a row without a better one; null: no early stop
    shuffle: bool  # false: blocks in file order
    checkpoint_every: int | None  # optimizer steps; null: by the clock alone
    checkpoint_minutes: float | None  # null: not by the clock

    def steps(self, per_epoch: int) -> int:
        """Optimizer steps to take, with `per_epoch` of them an epoch."""
        by_epochs = math.ceil(self.epochs * per_epoch)
        return by_epochs if self.max_steps is None else min(by_epochs, self.max_steps)


@dataclass
class EvaluationConfig:
    """The `evaluation` group."""

    split: str | None  # that `lmft evaluate` scores; null: test, else validation
    context: int | None  # tokens a window; null: the block size
    stride: int | None  # tokens from one window to the next; null: the context
    max_blocks: int | None  # only the first so many windows; null: all
    mask_draws: int  # frozen draws of masks (mlm) that `lmft evaluate` scores
    pseudo: bool  # mlm: hide each token once, alone, instead

    def __post_init__(self) -> None:
        if self.split not in (None, "train", "validation", "test"):
            raise UserError(
                f"evaluation.split is {self.split!r}; choose train, validation or test."
            )


class Precision(Enum):
    """The number format that a model computes in; the weights that learn stay in fp32."""

    auto = "auto"  # bf16 where the device computes it natively, else fp32
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

    device: str  # cpu, cuda, cuda:1, mps; auto: the first found of cuda, mps, cpu
    strategy: Strategy
    processes: int | None  # on this machine; null: one for each GPU, or as torchrun started them
    precision: Precision
    micro_batch_size: int | str  # blocks in memory at once; auto: halved until they fit
    compile: bool  # with torch.compile: a slower start, faster steps
    checkpoint_activations: bool  # made again in the backward pass: less memory, slower steps

    def __post_init__(self) -> None:
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


@dataclass
class RunConfig:
    """All groups, and what belongs to none."""

    dataset: DatasetConfig
    model: ModelConfig
    objective: Any  # an lmft.objective.Objective, by _target_
    optimizer: Any  # a torch.optim.Optimizer that awaits its parameters, by _target_
    trainer: TrainerConfig
    evaluation: EvaluationConfig
    hardware: HardwareConfig
    tracker: Any  # an lmft.tracker.Tracker, by _target_
    seed: int
    run_root: str
    cache_root: str
    fresh: bool
    debug: bool
