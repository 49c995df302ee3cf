"""Attention on a CPU by matrix products: at once for short blocks, in chunks for long ones.

With dropout, torch's attention does not use its flash kernel, and saves all weights and the mask;
in bf16 the flash kernel takes up to 3.5 times as long as matrix products. Here, long blocks are
processed one chunk of queries at a time without saving anything, since dropout masks come from a
seed; in short blocks the few weights are saved. Elsewhere (fp32 without dropout, other devices)
torch's own kernels are used.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from lmft.model.kernels.document_attention import DOCUMENTS, attend_by_torch, attend_each
from lmft.model.kernels.dropout import DropoutMask, new_seed

softmax_backward = torch.ops.aten._softmax_backward_data
# Names under which transformers knows the functions.
ATTENTION = "lmft"
UNMASKED_ATTENTION = "lmft_unmasked"
TORCH_ATTENTION = "lmft_torch"
SHORT_BLOCK = 256  # tokens, at most, of a block whose attention weights are saved
QUERIES_PER_CHUNK = 128  # in longer blocks


def replace_attention(model: PreTrainedModel) -> None:
    """Let the model call `attend`, if it calls torch's attention."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, attend)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        # Not in AttentionMaskInterface: transformers builds masks for registered names only.
        AttentionInterface.register(UNMASKED_ATTENTION, attend)
        model.set_attn_implementation(ATTENTION if needs_masks(model) else UNMASKED_ATTENTION)


def needs_masks(model: PreTrainedModel) -> bool:
    """Return whether transformers must build attention masks for the model.

    It builds a mask where code is compiled, and reads one where a model passes position ids.
    Without a mask torch chooses its causal flash kernel, and the host does not wait. Blocks are
    unpadded, and `attend` knows of documents; a mask is needed only where attention is limited to a
    window or chunk.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or [])
    limits = ("sliding_window", "attention_chunk_size", "attention_types")
    is_limited = any(getattr(config, name, None) for name in limits)
    return bool(is_limited or kinds - {"full_attention"})


def compile_attention(model: PreTrainedModel) -> None:
    """Let the model call torch's attention, with what it needs to know of documents."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(TORCH_ATTENTION, attend_by_torch)
        AttentionMaskInterface.register(TORCH_ATTENTION, sdpa_mask)
        model.set_attn_implementation(TORCH_ATTENTION)


@dataclass(frozen=True)
class AttentionSpec:
    """The settings of one call."""

    causal: bool  # no query attends to a later key
    scale: float  # of the scores
    dropout: float
    seed: int  # of the dropout masks


def attend(
    module: nn.Module,
    query: Tensor,  # (B, A, T, D)
    key: Tensor,  # (B, G, T, D): each of G heads serves A / G query heads
    value: Tensor,  # (B, G, T, D)
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute scaled dot-product attention, as an attention interface of transformers.

    Returns:
        The output (B, T, A, D), and None in place of the weights.
    """
    if kwargs.get(DOCUMENTS) is not None and query.is_cpu:
        positions = kwargs.pop(DOCUMENTS)
        terms = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal, **kwargs}
        each = partial(attend, module, **terms)
        return attend_each(each, query, key, value, attention_mask, positions)
    no_cache = query.shape[2] == key.shape[2]  # of earlier keys
    faster = dropout or (no_cache and query.dtype.itemsize < 4)
    if not faster or not query.is_cpu or kwargs.get("position_bias") is not None:
        settings = (dropout, scaling, is_causal)
        return attend_by_torch(module, query, key, value, attention_mask, *settings, **kwargs)
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    causal = is_causal and attention_mask is None and query.shape[2] > 1
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (heads.repeat_interleave(groups, dim=1) for heads in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    kernel = ShortAttention if no_cache and key.shape[2] <= SHORT_BLOCK else ChunkedAttention
    spec = AttentionSpec(causal, scale, dropout, new_seed() if dropout else 0)
    output: Tensor = kernel.apply(query, key, value, attention_mask, spec)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2).contiguous(), None


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
        size = key.shape[2]
        weights = attention_weights(query, key, mask, slice(0, size), size, spec)
        dropout = DropoutMask(spec.dropout, spec.seed).draw(weights) if spec.dropout else None
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
    """The same, one chunk of queries at a time; saves neither weights nor dropout masks."""

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
        masks = DropoutMask(spec.dropout, spec.seed)
        for rows, keys in query_chunks(query.shape[2], key.shape[2], spec.causal):
            weights = attention_weights(query, key, mask, rows, keys, spec)
            dropout = masks.draw(weights) if spec.dropout else None
            torch.matmul(
                apply_dropout(weights, dropout), value[:, :, :keys], out=output[:, :, rows]
            )
        ctx.save_for_backward(query, key, value, mask)
        ctx.spec = spec
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of query, key and value, from recomputed weights and masks."""
        query, key, value, mask = ctx.saved_tensors
        spec: AttentionSpec = ctx.spec
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        masks = DropoutMask(spec.dropout, spec.seed)
        for rows, keys in query_chunks(query.shape[2], key.shape[2], spec.causal):
            grad_rows = grad_output[:, :, rows]
            weights = attention_weights(query, key, mask, rows, keys, spec)
            dropout = masks.draw(weights) if spec.dropout else None
            grad_scores = gradient_of_scores(grad_rows, value[:, :, :keys], weights, dropout)
            grad_value[:, :, :keys] += apply_dropout(weights, dropout).transpose(2, 3) @ grad_rows
            grad_query[:, :, rows] = grad_scores @ key[:, :, :keys]
            grad_key[:, :, :keys] += grad_scores.transpose(2, 3) @ query[:, :, rows]
        scaled = grad_query.mul_(spec.scale), grad_key.mul_(spec.scale)
        return *scaled, grad_value, None, None


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


def attention_weights(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    rows: slice,
    keys: int,
    spec: AttentionSpec,
) -> Tensor:
    """Return the weights (B, A, q, k) of the queries `rows` on the first `keys` keys."""
    scores = (query[:, :, rows] * spec.scale) @ key[:, :, :keys].transpose(2, 3)
    if spec.causal:  # every query of the chunk attends to all keys before its first query
        square = scores[..., rows.start :]
        square += scores.new_full(square.shape[2:], -math.inf).triu_(1)  # faster than masked_fill_
    elif mask is not None:
        part = mask[:, :, rows, :keys]
        if part.dtype == torch.bool:
            scores.masked_fill_(~part, torch.finfo(scores.dtype).min)
        else:
            scores += part
    return scores.softmax(dim=-1)
