"""Training objectives: causal and masked language modeling.

An objective turns blocks of token ids into inputs and targets of the same shape and names the model
head to train. Causal and masked training differ in this file and nowhere else.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerBase

from lmft.errors import UserError

IGNORED = -100  # marks a target that is not scored, as torch's ignore_index does


@dataclass(frozen=True)
class Batch:
    """Inputs and targets of B blocks of T tokens each."""

    inputs: Tensor  # (B, T) token ids that the model reads
    targets: Tensor  # (B, T) token ids to predict at each position, or IGNORED
    # (B, T) of each token in its document, which begins at 0 and sees no other; None: of a block
    positions: Tensor | None = None

    @property
    def num_targets(self) -> int:
        """Number of targets that are not IGNORED."""
        return int((self.targets != IGNORED).sum())

    def split(self, size: int) -> Iterator["Batch"]:
        """Split into batches of at most `size` blocks."""
        positions: Iterable[Tensor | None] = repeat(None)
        if self.positions is not None:
            positions = self.positions.split(size)
        return map(Batch, self.inputs.split(size), self.targets.split(size), positions)

    def blank(self) -> "Batch":
        """Return one block of the same length without targets, as padding between ranks."""
        positions = None if self.positions is None else self.positions[:1]
        return Batch(self.inputs[:1], torch.full_like(self.targets[:1], IGNORED), positions)


class Objective(Protocol):
    """Interface between an objective and the code that trains and evaluates.

    To write your own objective, add a frozen dataclass with these members to this file and a file
    `conf/objective/NAME.yaml` whose `_target_` is the class. The fields of the dataclass are the
    knobs `objective.*`; check their values in `__post_init__` and raise a `UserError`.

    The trainer calls `check` once and `batch` for each training batch. The evaluation calls `batch`
    too, always with the same generators, or `one_by_one` with `evaluation.pseudo=true`. The loss is
    the cross-entropy between the logits at position t and `targets[:, t]`, over the positions
    whose target is not `IGNORED`: a causal objective shifts its targets itself.
    """

    name: ClassVar[str]  # short name in run folders, such as clm
    auto_model: ClassVar[Any]  # the transformers.AutoModelFor... class with the head to train
    pipeline_tag: ClassVar[str]  # the task of the trained model on the Hugging Face Hub
    is_causal: ClassVar[bool]  # whether a token is predicted from the tokens before it alone
    target_shift: ClassVar[int]  # the target at t is the token at t + target_shift

    @property
    def unit_label(self) -> str:
        """What the perplexity in a label counts, such as "per token"."""

    def batch(
        self,
        blocks: Tensor,
        tokenizer: PreTrainedTokenizerBase,
        rngs: list[np.random.Generator],
        learnt: Tensor | None = None,
    ) -> Batch:
        """Return inputs and targets (B, T) for `blocks`.

        Args:
            blocks: (B, T) token ids, int64 on the CPU; do not change them in place.
            tokenizer: gives the ids of special tokens.
            rngs: a random generator for each block, seeded by (seed, epoch, block). Draw random
                numbers from these alone, so that the result does not depend on how blocks are
                batched, and a resumed run repeats it.
            learnt: (B, T) bool, which tokens may be targets; None: all.
        """

    def one_by_one(
        self, block: Tensor, tokenizer: PreTrainedTokenizerBase, learnt: Tensor | None = None
    ) -> Batch:
        """Return a batch (B, T) that has each token of `block` (T,) as a target at most once.

        Each target may be predicted from all other tokens that the objective lets the model see:
        a masked model needs one row per target, a causal model a single row.
        """

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that the tokenizer has what the objective needs.

        Raises:
            UserError: it lacks a token; the message names the knob to change.
        """


@dataclass(frozen=True)
class CausalLM:
    """Predict each token from the ones before it."""

    name: ClassVar[str] = "clm"
    auto_model: ClassVar[Any] = AutoModelForCausalLM
    pipeline_tag: ClassVar[str] = "text-generation"
    is_causal: ClassVar[bool] = True
    target_shift: ClassVar[int] = 1

    @property
    def unit_label(self) -> str:
        """The loss counts each token."""
        return "per token"

    def batch(
        self,
        blocks: Tensor,
        tokenizer: PreTrainedTokenizerBase,
        rngs: list[np.random.Generator],
        learnt: Tensor | None = None,
    ) -> Batch:
        """Return the blocks themselves, with the token at t + 1 as the target at t."""
        targets = blocks if learnt is None else blocks.where(learnt, IGNORED)
        targets = targets.roll(-1, dims=1)
        targets[:, -1] = IGNORED  # no token follows the last one
        return Batch(blocks, targets)

    def one_by_one(
        self, block: Tensor, tokenizer: PreTrainedTokenizerBase, learnt: Tensor | None = None
    ) -> Batch:
        """Return `block` as a batch of one row: a causal model predicts all tokens in one pass."""
        return self.batch(block[None], tokenizer, [], None if learnt is None else learnt[None])

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Accept any tokenizer."""


@dataclass(frozen=True)
class MaskedLM:
    """Predict masked tokens from all the others (Devlin et al. 2019, section 3.1)."""

    mask_fraction: (
        float  # of a block's ordinary tokens that are learnt; special ones are never masked
    )

    name: ClassVar[str] = "mlm"
    auto_model: ClassVar[Any] = AutoModelForMaskedLM
    pipeline_tag: ClassVar[str] = "fill-mask"
    is_causal: ClassVar[bool] = False
    target_shift: ClassVar[int] = 0

    @property
    def unit_label(self) -> str:
        """The loss counts only hidden tokens, so their share must be known to compare it."""
        return f"per hidden token, {100 * self.mask_fraction:.6g}% hidden"

    def batch(
        self,
        blocks: Tensor,
        tokenizer: PreTrainedTokenizerBase,
        rngs: list[np.random.Generator],
        learnt: Tensor | None = None,
    ) -> Batch:
        """Select `mask_fraction` of each block as targets and corrupt them in the inputs.

        80 % of the selected tokens become the mask token, 10 % a random token, 10 % stay unchanged.
        """
        inputs, targets = blocks.clone(), torch.full_like(blocks, IGNORED)
        fixed = np.isin(blocks.numpy(), tokenizer.all_special_ids)  # (B, T)
        if learnt is not None:
            fixed |= ~learnt.numpy()
        for row, rng in enumerate(rngs):
            # Draw three numbers for every token, so that the draws do not depend on the text.
            order, corruption, replacement = rng.random((3, blocks.shape[1]))
            ordinary = np.flatnonzero(~fixed[row])
            count = min(len(ordinary), max(1, round(self.mask_fraction * len(ordinary))))
            selected = ordinary[np.argsort(order[ordinary], kind="stable")[:count]]
            targets[row, selected] = blocks[row, selected]
            masked = selected[corruption[selected] < 0.8]
            replaced = selected[(corruption[selected] >= 0.8) & (corruption[selected] < 0.9)]
            inputs[row, masked] = tokenizer.mask_token_id
            random_ids = (replacement[replaced] * len(tokenizer)).astype(np.int64)
            inputs[row, replaced] = torch.from_numpy(random_ids)
        return Batch(inputs, targets)

    def one_by_one(
        self, block: Tensor, tokenizer: PreTrainedTokenizerBase, learnt: Tensor | None = None
    ) -> Batch:
        """Mask each ordinary token of `block` (T,) in a row of its own; (B, T) for B such tokens.

        The negative sum of its nats is the pseudo-log-likelihood of Salazar et al. 2020.
        """
        fixed = torch.from_numpy(np.isin(block.numpy(), tokenizer.all_special_ids))
        if learnt is not None:
            fixed |= ~learnt
        masked = torch.eye(len(block), dtype=torch.bool)[~fixed]  # (B, T)
        return Batch(
            inputs=torch.where(masked, int(tokenizer.mask_token_id), block),
            targets=torch.where(masked, block, IGNORED),
        )

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that the tokenizer has a mask token.

        Raises:
            UserError: it has none.
        """
        if tokenizer.mask_token_id is None:
            raise UserError(
                "objective=mlm needs a tokenizer with a mask token, and this model's has none; "
                "choose a masked model such as model=distilroberta, or objective=clm."
            )
