"""Find out what a loaded model can do: how much it reads, and what a prediction depends on."""

import torch
from transformers import PreTrainedModel

from lmft.config.model_knobs import ModelConfig
from lmft.errors import UserError
from lmft.model.device_batch import DeviceBatch
from lmft.model.kernels.attention import replace_attention

PROBE_LENGTHS = (5, 3)  # tokens of two documents of a block


@torch.no_grad()
def sees_future_tokens(model: PreTrainedModel) -> bool:
    """Return whether a prediction changes with a later token."""
    model.eval()
    first = torch.arange(8).remainder(model.config.vocab_size)[None]  # (1, T)
    second = first.clone()
    second[0, -1] += 1
    before, after = (model(input_ids=ids).logits[0, :-1] for ids in (first, second))
    return not torch.allclose(before, after, rtol=1e-3, atol=1e-4)


def check_documents(config: ModelConfig, model: PreTrainedModel) -> None:
    """Check that the model can keep the documents of a block apart.

    Raises:
        UserError: it can't.
    """
    attention = model.config._attn_implementation
    replace_attention(model)
    if not keeps_documents_apart(model):
        raise UserError(
            f"model={config.label or config.name} ({model.config.model_type}) can't keep the "
            "documents of a block apart; set dataset.packing=stream dataset.attention=block."
        )
    model.set_attn_implementation(attention)


@torch.no_grad()
def keeps_documents_apart(model: PreTrainedModel) -> bool:
    """Return whether two documents of one block get the logits that each has alone."""
    model.eval()
    size = model.config.get_text_config().vocab_size
    ids = (size // 2 + torch.arange(sum(PROBE_LENGTHS))).remainder(size)[None]  # no special tokens
    parts = ids.split(PROBE_LENGTHS, dim=1)
    positions = torch.cat([torch.arange(length) for length in PROBE_LENGTHS])[None]
    together = DeviceBatch(ids, ids, None, positions)
    try:
        logits = model(**together.arguments(model)).logits
    except Exception:  # of any type: each model has code of its own
        return False
    alone = torch.cat([model(input_ids=part, use_cache=False).logits for part in parts], dim=1)
    return torch.allclose(logits, alone, rtol=1e-3, atol=1e-4)


def context_size(model: PreTrainedModel) -> int | None:
    """Return the maximum number of tokens that the model can read; None if it has no limit."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa
            return module.num_embeddings - reserved
    size = getattr(model.config, "max_position_embeddings", None)
    return None if size is None or size < 1 else int(size)
