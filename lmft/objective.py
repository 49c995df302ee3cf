"""What a model learns from a block of tokens.

Causal and masked language modelling differ in this file and nowhere else: each turns blocks into
inputs and targets of equal shape, and names the head it trains.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerBase

from lmft.errors import UserError

IGNORED = -100  # a target that carries no loss


@dataclass(frozen=True)
class Batch:
    """Blocks of equal length, and what is asked of them."""

    inputs: Tensor  # (B, T) token ids the model reads
    targets: Tensor  # (B, T) token ids it should predict there, or IGNORED

    @property
    def num_targets(self) -> int:
        """The targets that count."""
        return int((self.targets != IGNORED).sum())

    def split(self, size: int) -> Iterator["Batch"]:
        """The same batch in parts of at most `size` blocks."""
        return map(Batch, self.inputs.split(size), self.targets.split(size))

    def blank(self) -> "Batch":
        """A block of this length of which nothing is asked."""
        return Batch(self.inputs[:1], torch.full_like(self.targets[:1], IGNORED))

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return Batch(self.inputs.to(device), self.targets.to(device))


class Objective(Protocol):
    """What the trainer and the evaluation ask of an objective."""

    name: ClassVar[str]  # as labels and folders show it
    auto_model: ClassVar[Any]  # the transformers.AutoModelFor... with the head to train
    target_shift: ClassVar[
        int
    ]  # the target at t is the token at t + ahead: 1 for causal, 0 for masked

    def batch(
        self, blocks: Tensor, tokenizer: PreTrainedTokenizerBase, dice: list[np.random.Generator]
    ) -> Batch:
        """Ask something of `blocks` (B, T), with one source of randomness for each of them."""

    def one_by_one(self, block: Tensor, tokenizer: PreTrainedTokenizerBase) -> Batch:
        """Ask for each token of `block` (T,) alone."""

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse a tokenizer that can't serve this objective."""


@dataclass(frozen=True)
class CausalLM:
    """Predict each token from the ones before it."""

    name: ClassVar[str] = "clm"
    auto_model: ClassVar[Any] = AutoModelForCausalLM
    target_shift: ClassVar[int] = 1

    def batch(
        self, blocks: Tensor, tokenizer: PreTrainedTokenizerBase, dice: list[np.random.Generator]
    ) -> Batch:
        """The target at t is the token at t + 1."""
        targets = blocks.roll(-1, dims=1)
        targets[:, -1] = IGNORED  # the last token has nothing after it
        return Batch(blocks, targets)

    def one_by_one(self, block: Tensor, tokenizer: PreTrainedTokenizerBase) -> Batch:
        """Every token is asked for at once anyway."""
        return self.batch(block[None], tokenizer, [])

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Any tokenizer will do."""


@dataclass(frozen=True)
class MaskedLM:
    """Predict hidden tokens from all the others (Devlin et al. 2019, section 3.1)."""

    mask_fraction: float  # of a block's ordinary tokens; special ones are never hidden

    name: ClassVar[str] = "mlm"
    auto_model: ClassVar[Any] = AutoModelForMaskedLM
    target_shift: ClassVar[int] = 0

    def batch(
        self, blocks: Tensor, tokenizer: PreTrainedTokenizerBase, dice: list[np.random.Generator]
    ) -> Batch:
        """Of the hidden tokens 80 % become the mask, 10 % any token, 10 % stay as they are."""
        inputs, targets = blocks.clone(), torch.full_like(blocks, IGNORED)
        special = np.isin(blocks.numpy(), tokenizer.all_special_ids)  # (B, T)
        for row, die in enumerate(dice):
            # One draw a token and purpose, so that the dice never depend on the text.
            order, fate, anything = die.random((3, blocks.shape[1]))
            ordinary = np.flatnonzero(~special[row])
            count = min(len(ordinary), max(1, round(self.mask_fraction * len(ordinary))))
            hidden = ordinary[np.argsort(order[ordinary], kind="stable")[:count]]
            targets[row, hidden] = blocks[row, hidden]
            masked = hidden[fate[hidden] < 0.8]
            noised = hidden[(fate[hidden] >= 0.8) & (fate[hidden] < 0.9)]
            inputs[row, masked] = tokenizer.mask_token_id
            drawn = (anything[noised] * len(tokenizer)).astype(np.int64)
            inputs[row, noised] = torch.from_numpy(drawn)
        return Batch(inputs, targets)

    def one_by_one(self, block: Tensor, tokenizer: PreTrainedTokenizerBase) -> Batch:
        """Each ordinary token of `block` (T,) hidden once, all others seen; (B, T), B of them.

        The sum of its nats is the pseudo-log-likelihood of Salazar et al. 2020.
        """
        special = torch.from_numpy(np.isin(block.numpy(), tokenizer.all_special_ids))
        hidden = torch.eye(len(block), dtype=torch.bool)[~special]  # (B, T)
        return Batch(
            inputs=torch.where(hidden, int(tokenizer.mask_token_id), block),
            targets=torch.where(hidden, block, IGNORED),
        )

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """The tokenizer must have a token that hides others."""
        if tokenizer.mask_token_id is None:
            raise UserError(
                "objective=mlm needs a tokenizer with a mask token, and this model's has none; "
                "choose a masked model such as model=distilroberta, or objective=clm."
            )
