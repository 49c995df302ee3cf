"""Model FLOPs utilization (MFU): the FLOPs of a training step over what the hardware could do.

Only matrix products are counted, in the model and in the measured peak throughput; everything else
is small next to them, or not arithmetic.
"""

import time
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lmft.hardware.device import Hardware
from lmft.objective import Batch

MIN_SIZE, MAX_SIZE = 512, 8192  # rows and columns of the matrices that are multiplied
MIN_SECONDS = 0.005  # of a product, so that the time to launch it does not matter
REPETITIONS = 3
HELD_SECONDS = 1.0  # on a GPU


@dataclass(frozen=True)
class FlopsEstimate:
    """FLOPs of a model and the peak throughput of the hardware that it runs on."""

    peak: float  # FLOP/s of matrix products, over all processes
    # In matrix products, used once per token; a frozen one counts as two thirds of a weight.
    body_weights: float
    head_weights: float  # of the LM head, likewise, used once per target
    attention_flops: float  # per pair of a query and a key

    def flops(self, parts: list[Batch]) -> float:
        """Return the FLOPs of the forward and backward pass over a batch.

        6 per weight and token (Kaplan et al. 2020, section 2.1: 2 forward, 4 backward), plus
        12 * layers * heads * head size per pair of tokens in a block (Chowdhery et al. 2022,
        appendix B). With causal attention half of the pairs count; that paper counts all.
        A frozen weight has no gradient, so it takes 4. Embedding lookups are no products.
        Recomputed operations count once, and so do layers that share weights (ALBERT) and experts
        of which only some see a token.
        """
        total = 0.0
        for part in parts:
            blocks, size = part.inputs.shape
            total += 6 * (self.body_weights * blocks * size + self.head_weights * part.num_targets)
            pairs = blocks * size**2
            if part.positions is not None:  # the sum of 2 p + 1 below a length is its square
                pairs = int((2 * part.positions + 1).sum())
            total += self.attention_flops * pairs
        return total

    def mfu(self, parts: list[Batch], seconds: float) -> float:
        """Return the MFU of a step over `parts`: 1 is the peak throughput.

        It exceeds 1 only if the hardware was slower while its peak was measured.
        """
        return self.flops(parts) / seconds / self.peak


def estimate_flops(model: PreTrainedModel, hardware: Hardware, causal: bool) -> FlopsEstimate:
    """Count the FLOPs of `model` and measure the peak throughput of `hardware`.

    Args:
        model: the model to train.
        hardware: device, precision and number of processes.
        causal: whether a token attends only to those before it.
    """
    head = getattr(model.get_output_embeddings(), "weight", None)
    layers = (module for module in model.modules() if isinstance(module, nn.Linear | Conv1D))
    peak = measure_peak_throughput(hardware.device, hardware.dtype)
    return FlopsEstimate(
        peak=peak * hardware.process_group.size,
        body_weights=sum(count(layer.weight) for layer in layers if layer.weight is not head),
        head_weights=0 if head is None else count(head),
        attention_flops=attention_flops_per_pair(model) / (2 if causal else 1),
    )


def count(weight: Tensor) -> float:
    """Return the number of weights; a frozen one takes 2 of the 3 products of one that learns."""
    return weight.numel() if weight.requires_grad else weight.numel() * 2 / 3


def attention_flops_per_pair(model: PreTrainedModel) -> float:
    """Return the FLOPs of forward and backward per pair of a query and a key, in all layers.

    12 * layers * heads * head size: 2 products forward and 4 backward, with 2 FLOPs per element.
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    if not heads:  # a model without attention, such as Mamba
        return 0.0
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return float(12 * config.num_hidden_layers * heads * size)


@cache
def measure_peak_throughput(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the FLOP/s of a product of square matrices, once per process.

    On a CPU, the matrices grow until a product takes `MIN_SECONDS`: about 0.05 s on two cores. On a
    GPU, products are repeated for `HELD_SECONDS`. No random numbers are drawn.
    """
    if device.type == "cuda":
        return 2 * MAX_SIZE**3 / hold_matrix_product(MAX_SIZE, device, dtype)
    size, peak = MIN_SIZE, 0.0
    while True:
        seconds = time_matrix_product(size, device, dtype)
        peak = max(peak, 2 * size**3 / seconds)
        if seconds >= MIN_SECONDS or size == MAX_SIZE:
            return peak
        size *= 2


@torch.no_grad()
def hold_matrix_product(size: int, device: torch.device, dtype: torch.dtype) -> float:
    """Return the mean time, in seconds, of products that keep a GPU busy for `HELD_SECONDS`.

    A cool GPU is faster in the first milliseconds than it can be for long.
    """
    matrix = make_matrix(size, device, dtype)
    torch.mm(matrix, matrix)  # warm-up
    synchronize(device)
    started, products = time.perf_counter(), 0
    while time.perf_counter() - started < HELD_SECONDS:
        for _ in range(10):
            torch.mm(matrix, matrix)
        synchronize(device)
        products += 10
    return (time.perf_counter() - started) / products


@torch.no_grad()
def time_matrix_product(size: int, device: torch.device, dtype: torch.dtype) -> float:
    """Return the shortest time, in seconds, of a few products of two (size, size) matrices."""
    matrix = make_matrix(size, device, dtype)
    best = float("inf")
    for _ in range(REPETITIONS):
        synchronize(device)
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best


def make_matrix(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a matrix (size, size) of different values: equal ones are multiplied faster."""
    return torch.linspace(-1, 1, size**2, device=device).view(size, size).to(dtype)


def synchronize(device: torch.device) -> None:
    """Wait until `device` has finished all queued work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
