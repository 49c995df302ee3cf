"""How many operations a training step needs, and how many the device could do in that time.

Both count the additions and multiplications of matrix products alone; all else is little beside
them, or not arithmetic.
"""

import time
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lmft.hardware.device import Hardware
from lmft.objective import Batch

SMALLEST, LARGEST = 512, 8192  # rows and columns of the matrices that are multiplied

LONG_ENOUGH = 0.005  # seconds a product must take, so that starting it does not count

TRIES = 3


@dataclass(frozen=True)
class Limit:
    """What the device's matrix products allow at best for one model."""

    rate: float  # operations a second
    body: int  # weights in matrix products, each used for every token
    head: int  # weights of the map to logits, used for every target
    attention: float  # operations for each pair of a query and a key

    def operations(self, parts: list[Batch]) -> float:
        """Of the forward and backward pass over a batch.

        6 for each weight and token (Kaplan et al. 2020, section 2.1: 2 forward, 4 backward), and
        12 * layers * width of all heads for each pair of tokens in a block, half of them where a
        token sees only those before it (Chowdhery et al. 2022, appendix B, which takes all). A
        looked-up embedding is no product. What an implementation computes twice counts once, and
        so does a layer that a model goes through several times (ALBERT); experts of which only a
        few serve a token are left out.
        """
        total = 0.0
        for part in parts:
            blocks, size = part.inputs.shape
            total += 6 * (self.body * blocks * size + self.head * part.num_targets)
            total += self.attention * blocks * size**2
        return total

    def share(self, parts: list[Batch], seconds: float) -> float:
        """The share of the limit that a step over `parts` reached; 1 is all of it.

        It passes 1 only if the device was slowed down while its rate was measured.
        """
        return self.operations(parts) / seconds / self.rate


def find_limit(model: PreTrainedModel, hardware: Hardware, causal: bool) -> Limit:
    """The limit for `model` on `hardware`.

    Args:
        model: that trains.
        hardware: where, and in which precision.
        causal: whether a token sees only those before it.
    """
    head = getattr(model.get_output_embeddings(), "weight", None)
    maps = (module for module in model.modules() if isinstance(module, nn.Linear | Conv1D))
    return Limit(
        rate=matrix_product_rate(hardware.device, hardware.dtype) * hardware.process_group.size,
        body=sum(some.weight.numel() for some in maps if some.weight is not head),
        head=0 if head is None else head.numel(),
        attention=attention_operations(model) / (2 if causal else 1),
    )


def attention_operations(model: PreTrainedModel) -> float:
    """Forward and backward, for each pair of a query and a key: 4 products of heads * size each."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    if not heads:  # it has no attention, as in Mamba
        return 0.0
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return float(12 * config.num_hidden_layers * heads * size)


@cache
def matrix_product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second in a product of square matrices, measured once in a process.

    The matrices grow until a product takes long enough. It takes some 0.05 s on two cores, and
    draws no random number.
    """
    size, rate = SMALLEST, 0.0
    while True:
        seconds = product_seconds(size, device, dtype)
        rate = max(rate, 2 * size**3 / seconds)
        if seconds >= LONG_ENOUGH or size == LARGEST:
            return rate
        size *= 2


@torch.no_grad()
def product_seconds(size: int, device: torch.device, dtype: torch.dtype) -> float:
    """The shortest of a few products of two (size, size) matrices."""
    # Of many values: a GPU multiplies equal ones more quickly than any real ones.
    matrix = torch.linspace(-1, 1, size**2, device=device).view(size, size).to(dtype)
    best = float("inf")
    for _ in range(TRIES):
        wait_for(device)
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        wait_for(device)
        best = min(best, time.perf_counter() - started)
    return best


def wait_for(device: torch.device) -> None:
    """Until `device` has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
