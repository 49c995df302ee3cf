"""Let models of transformers call the attention that is fastest where they run.

On a CPU with dropout, or in low precision, that is lmft's own; elsewhere torch's kernels.
"""

import math
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from lmft.model.kernels.cpu_attention import AttentionSpec, ChunkedAttention, ShortAttention
from lmft.model.kernels.document_attention import DOCUMENTS, attend_by_torch, attend_each
from lmft.model.kernels.dropout import new_seed

# Names under which transformers knows the functions.
ATTENTION = "lmft"
UNMASKED_ATTENTION = "lmft_unmasked"
TORCH_ATTENTION = "lmft_torch"
SHORT_BLOCK = 256  # tokens, at most, of a block whose attention weights are saved


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
