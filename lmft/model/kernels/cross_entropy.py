"""The cross-entropy of logits and its gradient as one CUDA kernel.

Each row of logits is read twice, the second time from the GPU's cache, and overwritten by its
gradient. Separate operations would read and write fp32 copies of all logits several times.
"""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

LOWEST = -3e38  # below all logits but -inf, whose difference from itself is not a number
COLUMNS = 2048  # of a row at once
WARPS = 4  # of 32 threads for each row; of nine pairs the fastest on an H100, with masked loads


def has_kernel(device: torch.device) -> bool:
    """Return whether `cross_entropy_` runs on this device."""
    return device.type == "cuda" and has_triton()


@cache
def has_triton() -> bool:
    """Return whether Triton is installed, as it is with torch for CUDA on Linux."""
    return find_spec("triton") is not None


def cross_entropy_(
    logits: Tensor, targets: Tensor, scale: float, softcap: float | None, gradient: bool
) -> Tensor:
    """Return the nats of each row (N,) in fp32, 0 where its target is negative.

    Args:
        logits: (N, V), the output of the linear map; its rows may be padded.
        targets: (N,) int64.
        scale: of the logits, before the cap.
        softcap: caps logits at softcap * tanh(logits / softcap); None leaves them.
        gradient: overwrite `logits` by the gradient of the summed nats.
    """
    from lmft.model.kernels.triton_cross_entropy import cross_entropy  # Triton is slow to import

    nats = torch.empty(len(logits), device=logits.device)
    cross_entropy[(len(logits),)](
        logits,
        targets,
        nats,
        logits.stride(0),
        SCALE=scale,
        SOFTCAP=softcap,
        VOCABULARY=logits.shape[1],
        LOWEST=LOWEST,
        WRITES_GRADIENT=gradient,
        COLUMNS=COLUMNS,
        num_warps=WARPS,
    )
    return nats
