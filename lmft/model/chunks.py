"""The chunks in which the loss is computed: how large they are on a device, and the splitting."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """The parts in which a device computes the loss."""

    # Bytes of logits in memory at once. In training each chunk costs a pass over the fp32 gradient
    # of the head's weight, so chunks are larger than in evaluation.
    chunk_bytes: int
    eval_chunk_bytes: int
    fp32_logits: int  # converted to fp32 at once
    slice: int  # entries of the vocabulary in a product of the backward pass
    alignment: int  # of the length of a row of logits, in elements


# On a CPU fp32 logits stay in the cache, and products of slices are faster than whole ones.
CPU_SIZES = Sizes(2**27, 2**25, fp32_logits=2**20, slice=2**13, alignment=1)
# On a GPU small parts would take longer to launch than to compute, and products with rows of an
# odd length are slow. Neither number was tuned on one.
GPU_SIZES = Sizes(2**29, 2**27, fp32_logits=2**25, slice=2**31, alignment=64)


def sizes_on(device: torch.device) -> Sizes:
    """Return the parts in which `device` computes the loss."""
    return CPU_SIZES if device.type == "cpu" else GPU_SIZES


# With more tokens, summing the gradient of the head's weight over chunks takes longer than all else
# in the loss, so chunks are larger: still less than the whole logits that others keep three times.
LARGE_VOCABULARY = 2**17  # tokens
LARGE_CHUNK_BYTES = 2**30


def chunk_bytes(weight: Tensor, learns: bool = True) -> int:
    """Return the bytes of logits in memory at once in training, of a head's weight (V, H).

    If the weight does not learn, chunks cost nothing but themselves.
    """
    if not learns:
        return sizes_on(weight.device).eval_chunk_bytes
    if len(weight) > LARGE_VOCABULARY:
        return LARGE_CHUNK_BYTES
    return sizes_on(weight.device).chunk_bytes


def split_into_chunks(
    hidden: Tensor, targets: Tensor, weight: Tensor, size: int
) -> list[tuple[Tensor, Tensor]]:
    """Split rows and targets into the fewest equal chunks of at most `size` bytes of logits."""
    max_rows = max(1, size // (len(weight) * weight.element_size()))
    count = max(1, -(-len(hidden) // max_rows))
    return list(zip(hidden.tensor_split(count), targets.tensor_split(count), strict=True))


def split_for_fp32(logits: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Split logits and targets into the few rows that are converted to fp32 at once."""
    rows = max(1, sizes_on(logits.device).fp32_logits // logits.shape[1])
    return zip(logits.split(rows), targets.split(rows), strict=True)
