"""The knobs of the `model` and `adapter` groups: type, range, and what a knob decides.

Defaults are in `conf/`, once. Nothing heavy is imported here.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from lmft.config.knob_metadata import HUGE, Range, count, knob, positive
from lmft.errors import UserError
from lmft.storage.hub import find_local_folder

CORPUS = "corpus"  # model.tokenizer: trained on the training split


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


def has_adapter(values: Mapping[str, Any]) -> bool:
    """Return whether the plain values of the `adapter` group are those of an adapter."""
    return bool(values["kind"] != NO_ADAPTER["kind"])
