"""Attention on a CPU: whole and plain for short blocks, in chunks for long ones with dropout.

With dropout, torch's attention leaves its flash kernel, and keeps every weight and die. Here a
chunk of queries is done at a time, and the dice come from a seed. In short blocks the weights are
few: plain matrix products, which keep them, take a fraction of the flash kernel's time. For long
blocks without dropout, and on other devices, torch's own kernels serve.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lmft.kernels.dice import Dice, new_seed

softmax_backward = torch.ops.aten._softmax_backward_data

NAME = "lmft"  # as transformers knows it
SHORT = 256  # tokens of a block whose attention weights are kept
QUERIES = 64  # done at once


def attend(
    module: nn.Module,
    query: Tensor,  # (B, A, T, D)
    key: Tensor,  # (B, G, T, D): each of G heads serves A / G of the queries'
    value: Tensor,  # (B, G, T, D)
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Scaled-dot-product attention as transformers asks for it; (B, T, A, D)."""
    short = query.shape[2] == key.shape[2] <= SHORT
    plain = more.get("position_bias") is None
    if query.device.type != "cpu" or not plain or not (short or dropout):
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **more
        )
        return found
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    causal = is_causal and attention_mask is None and query.shape[2] > 1
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (some.repeat_interleave(groups, dim=1) for some in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    kernel = ShortAttention if short else DropoutAttention
    out: Tensor = kernel.apply(  # type: ignore[no-untyped-call]
        query, key, value, attention_mask, causal, scale, dropout, new_seed()
    )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


class ShortAttention(Function):
    """softmax(scale * Q K^T + mask), thinned out, times V: at once, with weights and dice kept."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float,
        dropout: float,
        seed: int,
    ) -> Tensor:
        """The attended values (B, A, T, D)."""
        size = key.shape[2]
        weights = attention(query, key, mask, slice(0, size), size, causal, scale)
        kept = Dice(dropout, seed).throw(weights) if dropout else None
        ctx.save_for_backward(query, key, value, weights, kept)
        ctx.scale = scale
        return (weights if kept is None else weights * kept) @ value

    @staticmethod
    def backward(ctx: Any, into_out: Tensor) -> tuple[Tensor | None, ...]:
        """From what was kept."""
        query, key, value, weights, kept = ctx.saved_tensors
        thinned, into_weights = weights, into_out @ value.transpose(2, 3)
        if kept is not None:
            thinned = weights * kept
            into_weights *= kept
        into_scores = torch.ops.aten._softmax_backward_data(
            into_weights, weights, -1, weights.dtype
        )
        into_scores *= ctx.scale
        into_value = thinned.transpose(2, 3) @ into_out
        into_key = into_scores.transpose(2, 3) @ query
        return into_scores @ key, into_key, into_value, None, None, None, None, None


class DropoutAttention(Function):
    """softmax(scale * Q K^T + mask), thinned out, times V; chunk by chunk of queries.

    The backward pass is that of Dao et al. 2022, algorithm 4.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float,
        dropout: float,
        seed: int,
    ) -> Tensor:
        """The attended values (B, A, T, D)."""
        out = torch.empty_like(query)
        dice = Dice(dropout, seed)
        for rows, keys in chunks(query.shape[2], key.shape[2], causal):
            weights = attention(query, key, mask, rows, keys, causal, scale)
            weights *= dice.throw(weights)
            torch.matmul(weights, value[:, :, :keys], out=out[:, :, rows])
        ctx.save_for_backward(query, key, value, mask, out)
        ctx.settings = causal, scale, dropout, seed
        return out

    @staticmethod
    def backward(ctx: Any, into_out: Tensor) -> tuple[Tensor | None, ...]:
        """The same weights and dice once more."""
        query, key, value, mask, out = ctx.saved_tensors
        causal, scale, dropout, seed = ctx.settings
        into_query = torch.empty_like(query)
        into_key, into_value = torch.zeros_like(key), torch.zeros_like(value)
        row_sums = (into_out * out).sum(dim=-1, keepdim=True)  # (B, A, T, 1)
        dice = Dice(dropout, seed)
        for rows, keys in chunks(query.shape[2], key.shape[2], causal):
            weights = attention(query, key, mask, rows, keys, causal, scale)
            into_weights = into_out[:, :, rows] @ value[:, :, :keys].transpose(2, 3)
            kept = dice.throw(into_weights)
            into_weights *= kept
            into_scores = (into_weights - row_sums[:, :, rows]).mul_(weights).mul_(scale)
            into_value[:, :, :keys] += (weights * kept).transpose(2, 3) @ into_out[:, :, rows]
            into_query[:, :, rows] = into_scores @ key[:, :, :keys]
            into_key[:, :, :keys] += into_scores.transpose(2, 3) @ query[:, :, rows]
        return into_query, into_key, into_value, None, None, None, None, None


def chunks(queries: int, keys: int, causal: bool) -> Iterator[tuple[slice, int]]:
    """Slices of queries, each with how many keys they see at most."""
    for start in range(0, queries, QUERIES):
        end = min(start + QUERIES, queries)
        yield slice(start, end), end if causal else keys


def attention(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    rows: slice,
    keys: int,
    causal: bool,
    scale: float,
) -> Tensor:
    """The weights (B, A, q, k) of some queries on the first `keys` keys."""
    scores = (query[:, :, rows] * scale) @ key[:, :, :keys].transpose(2, 3)
    if causal:
        ahead = torch.ones(scores.shape[2:], dtype=torch.bool).triu_(1 + rows.start)
        scores.masked_fill_(ahead, -math.inf)
    elif mask is not None:
        part = mask[:, :, rows, :keys]
        if part.dtype == torch.bool:
            scores.masked_fill_(~part, torch.finfo(scores.dtype).min)
        else:
            scores += part
    return scores.softmax(dim=-1)
