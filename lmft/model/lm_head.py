"""The LM head: the linear map from a model's last hidden states to logits.

The logits of a batch are by far the largest tensor of a training step. With the head at hand, the
loss can compute them chunk by chunk.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

PROBE_TOKENS = 8


@dataclass(frozen=True)
class Head:
    """logits = cap(scale * (hidden @ weight.T + bias)), cap(x) = softcap * tanh(x / softcap)."""

    linear: nn.Linear
    scale: float
    softcap: float | None

    def scale_and_cap(self, logits: Tensor) -> Tensor:
        """Apply scale and softcap to the output of the linear map."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


def find_head(model: PreTrainedModel) -> Head | None:
    """Return the model's head; None if a `Head` does not reproduce the model's logits.

    This is verified by a forward pass over a few tokens.
    """
    linear = model.get_output_embeddings()
    if type(linear) is not nn.Linear:
        return None
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
    scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma
    head = Head(linear, scale, softcap)
    return head if _reproduces_logits(head, model) else None


@torch.no_grad()
def _reproduces_logits(head: Head, model: PreTrainedModel) -> bool:
    was_training = model.training
    model.eval()
    size = model.config.get_text_config().vocab_size
    ids = (torch.arange(PROBE_TOKENS, device=model.device) % size)[None]  # (1, T)
    expected = model(input_ids=ids, use_cache=False).logits
    with capture_hidden_states(head.linear) as captured:
        model(input_ids=ids, use_cache=False)
    model.train(was_training)
    if len(captured) != 1:
        return False
    logits = head.scale_and_cap(head.linear(captured[0]))
    linear_dtype = head.linear.weight.dtype  # low in the base of an adapter
    rtol, atol = (1e-4, 1e-5) if linear_dtype is torch.float32 else (0.02, 0.02)
    same_shape = logits.shape == expected.shape
    return same_shape and torch.allclose(logits.float(), expected.float(), rtol=rtol, atol=atol)


@contextmanager
def capture_hidden_states(linear: nn.Linear) -> Iterator[list[Tensor]]:
    """Skip the head's linear map inside; append its input (B, T, H) to the yielded list."""
    captured: list[Tensor] = []

    def capture(hidden: Tensor) -> Tensor:
        captured.append(hidden)
        return hidden[..., :1].clone()  # instead of logits, which are not read

    linear.forward = capture  # type: ignore[method-assign, assignment]
    try:
        yield captured
    finally:
        del linear.forward
