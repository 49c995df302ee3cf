"""The knobs of each group: type, unit, range, and what a knob decides.

Defaults are in `conf/`, once. Nothing heavy is imported here, so that a finished run can answer
before torch is loaded.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any, get_type_hints

from lmft.config.knob_metadata import HUGE, Decides, Range, count, knob, positive
from lmft.config.text_words import PREFIXES, SEPARATORS, as_paths, check_delimiter, check_word
from lmft.errors import UserError
from lmft.storage.hub import find_local_folder

AUTO = "auto"  # hardware.micro_batch_size: the largest that fits; hardware.compile: by run length
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


class DataKind(Enum):
    """What the records of a file hold."""

    auto = "auto"  # text where dataset.text_column is there, else what other columns hold
    text = "text"
    completion = "completion"  # prompt + completion, or instruction + input + output
    chat = "chat"  # messages, or conversations


class Learn(Enum):
    """Which tokens of a document are targets."""

    auto = "auto"  # completion for completion and chat, all for text
    completion = "completion"  # the completion, or what the assistant says
    all = "all"
    last = "last"  # only the assistant's last message


class Packing(Enum):
    """How the documents of a split become blocks."""

    auto = "auto"  # stream for text, documents for completion and chat
    stream = "stream"  # one after the other, cut wherever a block is full
    documents = "documents"  # whole, by best fit; the rest of a block is padded


class Attention(Enum):
    """What a token of a block sees."""

    auto = "auto"  # block for text, document for completion and chat
    block = "block"  # the whole block
    document = "document"  # its own document, whose positions start again at 0


class LogModel(Enum):
    """Which weights of a run a tracker gets as a logged model."""

    best = "best"
    none = "none"


class LongDocuments(Enum):
    """What becomes of a document that is longer than a block, where documents are packed whole."""

    split = "split"  # it is cut into pieces of a block; each is a document of its own
    truncate = "truncate"  # its first block is kept
    drop = "drop"


@dataclass
class DatasetConfig:
    """The `dataset` group."""

    name: str  # as labels show it
    # a lmft.dataset.sources.Source, by _target_
    source: Any = field(metadata=knob(decides=Decides.location))
    # where the source keeps each split: a path or a list of paths, or the hub's name for it
    train: Any = field(metadata=knob(is_path_list=True))
    validation: Any = field(metadata=knob(is_path_list=True))
    test: Any = field(metadata=knob(is_path_list=True))
    # of the training documents, held out if there is no validation
    validation_fraction: float = field(metadata=knob(Range(0, 1, above=True, below=True)))
    text_column: str  # of records; of a column inside another, its path: article.body
    # of .csv and .tsv; null: a comma and a tab
    delimiter: str | None = field(metadata=knob(formerly=None))
    errors: TextErrors  # in files
    document: DocumentRule
    # between documents: eos, none, model, or a text
    separator: str = field(metadata=knob(may_be_empty=True))
    block_size: int = field(metadata=knob(count(2)))  # tokens
    max_documents: int | None = field(metadata=knob(count(1, None)))  # of each split; null: all
    # leave out documents: of train those in it already, of other splits those in train
    drop_duplicates: bool = field(metadata=knob(formerly=False))
    kind: DataKind = field(metadata=knob(formerly="auto"))
    learn: Learn = field(metadata=knob(formerly="auto"))
    # of chats: tokenizer (its own), chatml, or a file
    chat_template: str = field(metadata=knob(formerly="tokenizer"))
    # of completions, for the prompt: none, alpaca, or a file
    prompt_template: str = field(metadata=knob(formerly="none"))
    packing: Packing = field(metadata=knob(formerly="auto"))
    attention: Attention = field(metadata=knob(formerly="auto"))
    long: LongDocuments = field(metadata=knob(formerly="split"))

    def __post_init__(self) -> None:
        check_word("dataset.separator", self.separator, SEPARATORS)
        check_delimiter("dataset.delimiter", self.delimiter)
        for split in ("train", "validation", "test"):
            setattr(self, split, as_paths(f"dataset.{split}", getattr(self, split)))


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
    # of a tokenizer trained on the corpus
    vocab_size: int = field(metadata=knob(count(1, most=1_000_000)))
    # what is not trained: embeddings, layers.N, layers.N-M, head
    freeze: list[str] = field(metadata=knob(formerly=[]))
    # of every kind that the architecture has; null: its own
    dropout: float | None = field(metadata=knob(Range(0, 1, (None,), below=True)))

    def __post_init__(self) -> None:
        if self.name is not None:
            self.name = os.path.expanduser(self.name)
        if self.tokenizer is not None:
            self.tokenizer = os.path.expanduser(self.tokenizer)
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
            find_local_folder(self.name, "model.name")


class AdapterKind(Enum):
    """What is trained beside the frozen weights of a base."""

    none = "none"  # nothing: the weights themselves are
    lora = "lora"
    dora = "dora"


class AdapterBias(Enum):
    """Which biases of the base are trained with an adapter."""

    none = "none"
    all = "all"
    lora_only = "lora_only"  # of adapted maps


class Quantize(Enum):
    """How the frozen weights of an adapter's base are stored."""

    none = "none"  # in the run's precision
    nf4 = "nf4"  # in 4 bits


WHOLE = ("embeddings", "head")  # what adapter.train_also may name


@dataclass
class AdapterConfig:
    """The `adapter` group; without an adapter no knob has a value."""

    kind: AdapterKind
    rank: int | None = field(metadata=knob(count(1, None, most=65_536)))
    alpha: float | None = field(metadata=knob(positive(HUGE, None)))  # null: 2 * rank
    # of what goes into the small matrices
    dropout: float | None = field(metadata=knob(Range(0, 1, (None,), below=True)))
    bias: AdapterBias | None
    targets: Any  # auto, a list of names, or a pattern of full names
    train_also: list[str] | None  # whole
    quantize: Quantize | None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("kind", "alpha") and (value is None) == self.is_on:
                raise UserError(
                    f"adapter.{name} has no value; leave it out."
                    if self.is_on
                    else f"adapter.{name} is set, but there is no adapter; add adapter=lora."
                )
        if not self.is_on and self.alpha is not None:
            raise UserError("adapter.alpha is set, but there is no adapter; add adapter=lora.")
        is_list = isinstance(self.targets, list) and self.targets
        if self.is_on and not (is_list or isinstance(self.targets, str)):
            raise UserError(
                f"adapter.targets is {self.targets!r}; set it to auto, to a list of names as "
                "[q_proj, v_proj], or to a pattern of full names."
            )
        for part in self.train_also or []:
            if part not in WHOLE:
                raise UserError(f"adapter.train_also has {part!r}; choose {' or '.join(WHOLE)}.")

    @property
    def is_on(self) -> bool:
        """Whether there is an adapter."""
        return self.kind is not AdapterKind.none

    @property
    def trains_base_weights(self) -> bool:
        """Whether weights of the base are trained, too."""
        return bool(self.train_also) or self.bias in (AdapterBias.all, AdapterBias.lora_only)


NO_ADAPTER = {"kind": "none"} | {
    declared.name: None for declared in fields(AdapterConfig) if declared.name != "kind"
}


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


@dataclass
class RunConfig:
    """All groups, and what belongs to none."""

    dataset: DatasetConfig
    model: ModelConfig
    adapter: AdapterConfig = field(metadata=knob(formerly=NO_ADAPTER))
    objective: Any  # an lmft.objective.Objective, by _target_
    optimizer: Any  # a torch.optim.Optimizer that awaits its parameters, by _target_
    trainer: TrainerConfig
    evaluation: EvaluationConfig
    hardware: HardwareConfig
    # an lmft.tracker.Tracker, by _target_
    tracker: Any = field(metadata=knob(decides=Decides.location))
    # a run whose weights this one begins with: folder, name in run_root or MLflow id
    from_run: str | None = field(metadata=knob(formerly=None))
    seed: int = field(metadata=knob(count(0, most=2**63 - 1)))
    run_root: str = field(metadata=knob(decides=Decides.location))
    cache_root: str = field(metadata=knob(decides=Decides.location))
    fresh: bool = field(metadata=knob(decides=Decides.location))
    debug: bool = field(metadata=knob(decides=Decides.location))

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a whole batch; the last one of an epoch may be shorter."""
        return self.trainer.batch_size * self.dataset.block_size


def knobs(schema: type = RunConfig, prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each knob of the schema by its full name, with what `knob` declared of it.

    Groups come as well, before their knobs.
    """
    types = get_type_hints(schema)
    for declared in fields(schema):
        name = f"{prefix}{declared.name}"
        yield name, declared.metadata
        if is_dataclass(group := types[declared.name]) and isinstance(group, type):
            yield from knobs(group, f"{name}.")


def decides(name: str) -> Decides:
    """Return what a knob decides, by its full name; one not listed decides what its group does."""
    while name:
        if "decides" in (declared := _DECLARED.get(name, {})):
            return Decides(declared["decides"])
        name = name.rpartition(".")[0]
    return Decides.numbers


def is_as_before(name: str, value: Any) -> bool:
    """Return whether this value of a knob is what runs did before the knob existed."""
    return name in FORMERLY and bool(FORMERLY[name] == value)


_DECLARED = dict(knobs())
# Knobs that are younger than some runs -> what those runs did.
FORMERLY = {
    name: declared["formerly"] for name, declared in _DECLARED.items() if "formerly" in declared
}
