"""Attention in which no token sees another document of its block.

On a CPU each document is attended by itself: ten documents a block need a tenth of the scores.
Elsewhere, and in compiled code, torch's kernel gets a mask.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

DOCUMENTS = "document_positions"  # the argument that models pass on to their attention

Attend = Callable[..., tuple[Tensor, None]]


def attend_each(
    attend: Attend,
    query: Tensor,  # (B, A, T, D)
    key: Tensor,  # (B, G, T, D)
    value: Tensor,  # (B, G, T, D)
    mask: Tensor | None,
    positions: Tensor,
) -> tuple[Tensor, None]:
    """Attend to one document after the other.

    Args:
        attend: called with the query, key, value and mask of a document.
        query: of whole blocks, as key and value.
        key: of G heads.
        value: of G heads.
        mask: (B or 1, A or 1, T, T), of what else limits attention.
        positions: (B, T), 0 at the first token of each document.

    Returns:
        The output (B, T, A, D), and None in place of the weights.
    """
    blocks, _, size, _ = query.shape
    starts = (positions.flatten() == 0).nonzero().squeeze(1).tolist()
    lengths = [end - start for start, end in zip(starts, [*starts[1:], blocks * size], strict=True)]
    # One split, and one concatenation of the outputs: slices would fill whole gradients with zeros.
    parts = (heads.transpose(1, 2).flatten(0, 1).split(lengths) for heads in (query, key, value))
    outputs = []
    for start, *part in zip(starts, *parts, strict=True):
        block, first = divmod(start, size)
        tokens = slice(first, first + len(part[0]))
        seen = None if mask is None else mask[block % len(mask)][None, :, tokens, tokens]
        outputs.append(attend(*(heads.transpose(0, 1)[None] for heads in part), seen)[0])
    return torch.cat(outputs, dim=1).unflatten(1, (blocks, size)).squeeze(0), None


def attend_by_torch(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute attention by torch's own kernels, as an attention interface of transformers."""
    if (positions := kwargs.pop(DOCUMENTS, None)) is not None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        attention_mask = document_mask(positions, attention_mask, causal)
    result: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
    )
    return result


def document_mask(positions: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Return what each query may attend to, (B, 1, T, T): what `mask` has of its document.

    Args:
        positions: (B, T), 0 at the first token of each document.
        mask: bool, or added to the scores; None: only `causal` counts.
        causal: no query attends to a later key.
    """
    numbers = (positions == 0).cumsum(dim=1)
    same = numbers[:, None, :, None] == numbers[:, None, None, :]
    if mask is None:
        return same.tril() if causal else same
    if mask.dtype == torch.bool:
        return mask & same
    return mask.masked_fill(~same, torch.finfo(mask.dtype).min)
