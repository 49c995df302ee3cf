"""Attention on a CPU: plain matrix products, whole for short blocks, in chunks for long ones.

With dropout, torch's attention leaves its flash kernel, and keeps every weight and die; in bf16
that kernel takes up to 3.5 times as long as matrix products do. Here a chunk of queries is done
at a time and nothing is kept, the dice come from a seed; in short blocks weights, being few,
are kept. In fp32 without dropout, and on other devices, torch's own kernels serve.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lmft.model.kernels.dropout import Dice, new_seed

softmax_backward = torch.ops.aten._softmax_backward_data

NAME = "lmft"  # as transformers knows it

SHORT = 256  # tokens of a block whose attention weights are kept

QUERIES = 128  # done at once in longer ones


@dataclass(frozen=True)
class AttentionSpec:
    """What attention there is to be, beside its tensors."""

    causal: bool  # no query sees a later key
    scale: float  # of the scores
    dropout: float
    seed: int  # of its dice


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
    whole = query.shape[2] == key.shape[2]  # no cache of earlier keys
    quicker = dropout or (whole and query.dtype.itemsize < 4)
    if not quicker or query.device.type != "cpu" or more.get("position_bias") is not None:
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
    kernel = ShortAttention if whole and key.shape[2] <= SHORT else ChunkedAttention
    terms = AttentionSpec(causal, scale, dropout, new_seed() if dropout else 0)
    out: Tensor = kernel.apply(query, key, value, attention_mask, terms)  # type: ignore[no-untyped-call]
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
        terms: AttentionSpec,
    ) -> Tensor:
        """The attended values (B, A, T, D)."""
        size = key.shape[2]
        weights = attention(query, key, mask, slice(0, size), size, terms)
        kept = Dice(terms.dropout, terms.seed).throw(weights) if terms.dropout else None
        ctx.save_for_backward(query, key, value, weights, kept)
        ctx.scale = terms.scale
        return apply_dropout(weights, kept) @ value

    @staticmethod
    def backward(ctx: Any, into_out: Tensor) -> tuple[Tensor | None, ...]:
        """From what was kept."""
        query, key, value, weights, kept = ctx.saved_tensors
        into_scores = gradient_of_scores(into_out, value, weights, kept)
        into_value = apply_dropout(weights, kept).transpose(2, 3) @ into_out
        into_query = (into_scores @ key).mul_(ctx.scale)
        into_key = (into_scores.transpose(2, 3) @ query).mul_(ctx.scale)
        return into_query, into_key, into_value, None, None


class ChunkedAttention(Function):
    """The same chunk by chunk of queries, with nothing kept."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        terms: AttentionSpec,
    ) -> Tensor:
        """The attended values (B, A, T, D)."""
        # Once, and not for each product: heads often come side by side, as a slice of each token.
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        out = query.new_empty(*query.shape[:3], value.shape[3])
        dice = Dice(terms.dropout, terms.seed)
        for rows, keys in chunks(query.shape[2], key.shape[2], terms.causal):
            weights = attention(query, key, mask, rows, keys, terms)
            kept = dice.throw(weights) if terms.dropout else None
            torch.matmul(apply_dropout(weights, kept), value[:, :, :keys], out=out[:, :, rows])
        ctx.save_for_backward(query, key, value, mask)
        ctx.terms = terms
        return out

    @staticmethod
    def backward(ctx: Any, into_out: Tensor) -> tuple[Tensor | None, ...]:
        """The same weights and dice once more."""
        query, key, value, mask = ctx.saved_tensors
        terms: AttentionSpec = ctx.terms
        into_query = torch.empty_like(query)
        into_key, into_value = torch.zeros_like(key), torch.zeros_like(value)
        dice = Dice(terms.dropout, terms.seed)
        for rows, keys in chunks(query.shape[2], key.shape[2], terms.causal):
            into_rows = into_out[:, :, rows]
            weights = attention(query, key, mask, rows, keys, terms)
            kept = dice.throw(weights) if terms.dropout else None
            into_scores = gradient_of_scores(into_rows, value[:, :, :keys], weights, kept)
            into_value[:, :, :keys] += apply_dropout(weights, kept).transpose(2, 3) @ into_rows
            into_query[:, :, rows] = into_scores @ key[:, :, :keys]
            into_key[:, :, :keys] += into_scores.transpose(2, 3) @ query[:, :, rows]
        scaled = into_query.mul_(terms.scale), into_key.mul_(terms.scale)
        return *scaled, into_value, None, None


def apply_dropout(weights: Tensor, kept: Tensor | None) -> Tensor:
    """The weights after dropout."""
    return weights if kept is None else weights * kept


def gradient_of_scores(
    into_out: Tensor, value: Tensor, weights: Tensor, kept: Tensor | None
) -> Tensor:
    """What goes back through dropout and softmax, from whole rows of weights."""
    into_weights = into_out @ value.transpose(2, 3)
    if kept is not None:
        into_weights *= kept
    gradient: Tensor = softmax_backward(into_weights, weights, -1, weights.dtype)
    return gradient


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
    terms: AttentionSpec,
) -> Tensor:
    """The weights (B, A, q, k) of some queries on the first `keys` keys."""
    scores = (query[:, :, rows] * terms.scale) @ key[:, :, :keys].transpose(2, 3)
    if terms.causal:  # all keys before the chunk's first query are seen by all of it
        beside = scores[..., rows.start :]
        ahead = torch.ones(beside.shape[2:], dtype=torch.bool).triu_(1)
        beside.masked_fill_(ahead, -math.inf)
    elif mask is not None:
        part = mask[:, :, rows, :keys]
        if part.dtype == torch.bool:
            scores.masked_fill_(~part, torch.finfo(scores.dtype).min)
        else:
            scores += part
    return scores.softmax(dim=-1)
