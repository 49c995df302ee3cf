"""Attention on a CPU by matrix products: at once for short blocks, in tiles for long ones.

With dropout, torch's attention does not use its flash kernel, and saves all weights and the mask;
in bf16 the flash kernel takes up to 3.5 times as long as matrix products. Here, long blocks are
processed one chunk of queries at a time without saving anything, since dropout masks come from a
seed; in short blocks the few weights are saved.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lmft.model.kernels.dropout import DropoutMask

softmax_backward = torch.ops.aten._softmax_backward_data
QUERIES_PER_CHUNK = 128
TILE = 2**21  # bytes of scores at a time, which fit in the processor's cache


@dataclass(frozen=True)
class AttentionSpec:
    """The settings of one call."""

    causal: bool  # no query attends to a later key
    scale: float  # of the scores
    dropout: float
    seed: int  # of the dropout masks


class ShortAttention(Function):
    """dropout(softmax(scale * Q K^T + mask)) V at once; saves the weights and the dropout mask."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        spec: AttentionSpec,
    ) -> Tensor:
        """Return the output (B, A, T, D)."""
        if spec.causal:
            mask = causal_mask(query)
        weights = attention_weights(query, key, mask, spec.scale)
        dropout = None
        if spec.dropout:
            dropout = DropoutMask(spec.dropout, spec.seed).draw(weights.shape, weights.dtype)
        ctx.save_for_backward(query, key, value, weights, dropout)
        ctx.scale = spec.scale
        return apply_dropout(weights, dropout) @ value

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of query, key and value."""
        query, key, value, weights, dropout = ctx.saved_tensors
        grad_scores = gradient_of_scores(grad_output, value, weights, dropout)
        grad_value = apply_dropout(weights, dropout).transpose(2, 3) @ grad_output
        grad_query = (grad_scores @ key).mul_(ctx.scale)
        grad_key = (grad_scores.transpose(2, 3) @ query).mul_(ctx.scale)
        return grad_query, grad_key, grad_value, None, None


class ChunkedAttention(Function):
    """The same, one tile of scores at a time; saves neither weights nor dropout masks."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        spec: AttentionSpec,
    ) -> Tensor:
        """Return the output (B, A, T, D)."""
        # Copied once here, not in each product: heads are often strided slices of the tokens.
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        output = query.new_empty(*query.shape[:3], value.shape[3])
        for tile in tiles(query, key, mask, spec):
            queries, keys = tile.queries(query), tile.keys(key)
            weights = attention_weights(queries, keys, tile.mask, spec.scale)
            weights = apply_dropout(weights, tile.dropout)
            torch.matmul(weights, tile.keys(value), out=tile.queries(output))
        ctx.save_for_backward(query, key, value, mask)
        ctx.spec = spec
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of query, key and value, from recomputed weights and masks."""
        query, key, value, mask = ctx.saved_tensors
        scale = ctx.spec.scale
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        for tile in tiles(query, key, mask, ctx.spec):
            # Contiguous, since each is read by two products.
            queries, keys = tile.queries(query), tile.keys(key).contiguous()
            grad_rows = tile.queries(grad_output).contiguous()
            weights = attention_weights(queries, keys, tile.mask, scale)
            grad_scores = gradient_of_scores(grad_rows, tile.keys(value), weights, tile.dropout)
            dropped = apply_dropout(weights, tile.dropout)
            tile.keys(grad_value).add_(dropped.transpose(2, 3) @ grad_rows)
            tile.queries(grad_query).copy_(grad_scores @ keys)
            tile.keys(grad_key).add_(grad_scores.transpose(2, 3) @ queries)
        return grad_query.mul_(scale), grad_key.mul_(scale), grad_value, None, None


@dataclass(frozen=True)
class Tile:
    """Some queries of some heads, and the keys that they may attend to."""

    heads: tuple[slice, slice]  # of the first two dimensions
    rows: slice
    size: int  # keys
    mask: Tensor | None  # added to the scores of the last keys
    dropout: Tensor | None

    def queries(self, values: Tensor) -> Tensor:
        """Return the tile's part of a tensor (B, A, queries, D)."""
        return values[*self.heads, self.rows]

    def keys(self, values: Tensor) -> Tensor:
        """Return the tile's part of a tensor (B, A, keys, D)."""
        return values[*self.heads, : self.size]


def tiles(query: Tensor, key: Tensor, mask: Tensor | None, spec: AttentionSpec) -> Iterator[Tile]:
    """Yield tiles whose scores fit in the processor's cache.

    Dropout masks are drawn for whole chunks of queries, so the size of tiles changes no bit.
    """
    examples, heads, queries, _ = query.shape
    causal = causal_mask(query[:, :, :QUERIES_PER_CHUNK]) if spec.causal else None
    whole_mask = None if mask is None else mask.expand(examples, heads, -1, -1)
    masks = DropoutMask(spec.dropout, spec.seed)
    for rows, keys in query_chunks(queries, key.shape[2], spec.causal):
        count = rows.stop - rows.start
        shape = (examples, heads, count, keys)
        dropout = masks.draw(shape, query.dtype) if spec.dropout else None
        for part in head_slices(examples, heads, TILE // (count * keys * query.itemsize)):
            if causal is not None:
                seen: Tensor | None = causal[:count, :count]
            else:
                seen = None if whole_mask is None else whole_mask[*part, rows, :keys]
            yield Tile(part, rows, keys, seen, None if dropout is None else dropout[part])


def head_slices(examples: int, heads: int, count: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of examples and heads, `count` heads in each at most, or one."""
    some, few = max(1, count // heads), max(1, min(count, heads))
    for example in range(0, examples, some):
        for head in range(0, heads, few):
            yield slice(example, example + some), slice(head, head + few)


def apply_dropout(weights: Tensor, dropout: Tensor | None) -> Tensor:
    """Multiply the weights by a dropout mask, if there is one."""
    return weights if dropout is None else weights * dropout


def gradient_of_scores(
    grad_output: Tensor, value: Tensor, weights: Tensor, dropout: Tensor | None
) -> Tensor:
    """Backpropagate through the product with `value`, dropout and softmax; whole rows only."""
    grad_weights = grad_output @ value.transpose(2, 3)
    if dropout is not None:
        grad_weights *= dropout
    gradient: Tensor = softmax_backward(grad_weights, weights, -1, weights.dtype)
    return gradient


def query_chunks(queries: int, keys: int, causal: bool) -> Iterator[tuple[slice, int]]:
    """Yield slices of queries, each with the number of keys that they may attend to."""
    for start in range(0, queries, QUERIES_PER_CHUNK):
        end = min(start + QUERIES_PER_CHUNK, queries)
        yield slice(start, end), end if causal else keys


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Return the weights (B, A, q, k) of queries (B, A, q, D) on keys (B, A, k, D).

    Args:
        query: of a chunk.
        key: that the queries may attend to.
        mask: bool, or added to the scores; if it has fewer keys, of the last ones.
        scale: of the scores.
    """
    scores = (query * scale) @ key.transpose(2, 3)
    if mask is not None:
        masked = scores[..., -mask.shape[-1] :]
        if mask.dtype == torch.bool:
            masked.masked_fill_(~mask, torch.finfo(scores.dtype).min)
        else:
            masked += mask
    return scores.softmax(dim=-1)


def causal_mask(query: Tensor) -> Tensor:
    """Return a mask (T, T) to add to scores: -inf where a key is later than the query."""
    size = query.shape[2]
    return query.new_full((size, size), -math.inf).triu_(1)
