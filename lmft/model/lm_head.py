"""A model's head: the linear map from its last hidden states to logits.

The logits of a batch are by far the largest tensor of a step. Knowing the head, the loss need never
hold more than a chunk of them.
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

    def finish(self, logits: Tensor) -> Tensor:
        """What comes after the linear map."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


def find_head(model: PreTrainedModel) -> Head | None:
    """The model's head; None where it does more than is known here.

    Whether it is understood is not believed but tried: on a few tokens, its logits must be the
    model's own.
    """
    linear = model.get_output_embeddings()
    if type(linear) is not nn.Linear:
        return None
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
    scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma
    head = Head(linear, scale, softcap)
    return head if _is_whole(head, model) else None


@torch.no_grad()
def _is_whole(head: Head, model: PreTrainedModel) -> bool:
    was_training = model.training
    model.eval()
    size = model.config.get_text_config().vocab_size
    ids = (torch.arange(PROBE_TOKENS, device=model.device) % size)[None]  # (1, T)
    expected = model(input_ids=ids, use_cache=False).logits
    with without_head(head.linear) as caught:
        model(input_ids=ids, use_cache=False)
    model.train(was_training)
    if len(caught) != 1:
        return False
    logits = head.finish(head.linear(caught[0]))
    return logits.shape == expected.shape and torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)


@contextmanager
def without_head(linear: nn.Linear) -> Iterator[list[Tensor]]:
    """Inside, the model stops before its head; its hidden states (B, T, H) go to the list."""
    caught: list[Tensor] = []

    def catch(hidden: Tensor) -> Tensor:
        caught.append(hidden)
        return hidden[..., :1].clone()  # in place of logits; nobody looks

    linear.forward = catch  # type: ignore[method-assign, assignment]
    try:
        yield caught
    finally:
        del linear.forward
