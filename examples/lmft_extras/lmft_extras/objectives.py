"""Objectives."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lmft.objective import IGNORED, Batch, MaskedLM


@dataclass(frozen=True)
class SpanMaskedLM(MaskedLM):
    """Predict one contiguous span of hidden tokens in each block (after Joshi et al. 2020)."""

    name: ClassVar[str] = "span_mlm"

    def batch(
        self, blocks: Tensor, tokenizer: PreTrainedTokenizerBase, rngs: list[np.random.Generator]
    ) -> Batch:
        """Hide a span of `mask_fraction` of each block (B, T), at a random position."""
        inputs, targets = blocks.clone(), torch.full_like(blocks, IGNORED)
        size = blocks.shape[1]
        length = max(1, round(self.mask_fraction * size))
        for row, rng in enumerate(rngs):
            first = int(rng.integers(size - length + 1))
            span = slice(first, first + length)
            targets[row, span] = blocks[row, span]
            inputs[row, span] = tokenizer.mask_token_id
        return Batch(inputs, targets)
