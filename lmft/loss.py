"""Cross-entropy of a batch in nats, always in fp32, whatever the model computes in.

Where the model's head is understood, logits are made and used up chunk by chunk: in memory there is
one chunk of them, and their gradient is formed right where they are, in the forward pass.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from transformers import PreTrainedModel

from lmft.head import Head, beheaded
from lmft.objective import IGNORED, Batch

CHUNK = 2**25  # logits in memory at once: 128 MiB in fp32; each adds to a gradient of all weights
SCORED = 2**23  # the same where nothing is learnt


def mean_nats(
    model: PreTrainedModel, head: Head | None, batch: Batch, divisor: float
) -> tuple[Tensor, Tensor]:
    """The batch's nats over `divisor`, to train on, and the nats themselves; both ().

    Args:
        model: what computes.
        head: the model's, where it is understood.
        batch: inputs and targets.
        divisor: how many targets the whole step has; less where gradients are scaled up.
    """
    if head is None:
        nats = _plain(model, batch).sum()
        return nats / divisor, nats.detach()
    hidden, targets, _ = _hidden(model, head, batch)
    weight, bias = head.linear.weight, head.linear.bias
    loss: tuple[Tensor, Tensor] = LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, head, divisor
    )
    return loss


@torch.no_grad()
def target_nats(model: PreTrainedModel, head: Head | None, batch: Batch) -> Tensor:
    """The nats of each target, to evaluate; shape (B, T), 0 where nothing is asked."""
    if head is None:
        return _plain(model, batch)
    hidden, targets, asked = _hidden(model, head, batch)
    nats = torch.zeros(batch.targets.numel(), device=hidden.device)
    parts = [
        F.cross_entropy(head.finish(head.linear(rows).float()), some, reduction="none")
        for rows, some in _chunks(hidden, targets, SCORED // len(head.linear.weight))
    ]
    nats[asked] = torch.cat(parts) if parts else nats.new_zeros(0)
    return nats.view(batch.targets.shape)


class LinearCrossEntropy(Function):
    """Head and cross-entropy in one, in chunks of rows."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # (N, H)
        weight: Tensor,  # (V, H)
        bias: Tensor | None,  # (V,)
        targets: Tensor,  # (N,) int64
        head: Head,
        divisor: float,
    ) -> tuple[Tensor, Tensor]:
        """Nats over `divisor`, and nats; the gradients of the first are formed on the way."""
        nats = torch.zeros((), device=hidden.device)
        into_hidden = torch.empty_like(hidden)
        into_weight = into_bias = None  # in fp32 where chunks add up
        start = 0
        for rows, asked in _chunks(hidden, targets, CHUNK // len(weight)):
            finished = head.finish(F.linear(rows, weight, bias).float())
            gradient = torch.log_softmax(finished, dim=-1)  # (n, V); becomes the gradient
            picked = asked[:, None]
            nats -= gradient.gather(1, picked).sum()
            gradient.exp_().scatter_add_(1, picked, gradient.new_full(picked.shape, -1.0))
            _through_finish(gradient, finished, head)
            narrow = gradient.to(weight.dtype)
            into_hidden[start : start + len(rows)] = (narrow @ weight).div_(divisor)
            into_weight = _add_product(into_weight, narrow, rows / divisor)
            if bias is not None:
                summed = gradient.sum(dim=0).div_(divisor)
                into_bias = summed if into_bias is None else into_bias.add_(summed)
            start += len(rows)
        if into_weight is None:  # nothing was asked
            into_weight = torch.zeros_like(weight)
            into_bias = None if bias is None else torch.zeros_like(bias)
        ctx.save_for_backward(
            into_hidden,
            into_weight.to(weight.dtype),
            None if into_bias is None else into_bias.to(weight.dtype),
        )
        ctx.mark_non_differentiable(nats)
        return nats / divisor, nats

    @staticmethod
    def backward(ctx: Any, into_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """What was formed in the forward pass; other scales than 1 belong into `divisor`."""
        torch._assert_async(into_loss == 1)
        return (*ctx.saved_tensors, None, None, None)


def _plain(model: PreTrainedModel, batch: Batch) -> Tensor:
    batch = batch.to(model.device)
    logits = model(input_ids=batch.inputs, use_cache=False).logits  # (B, T, V)
    nats = F.cross_entropy(
        logits.float().flatten(0, 1),
        batch.targets.flatten(),
        ignore_index=IGNORED,
        reduction="none",
    )
    return nats.view(batch.targets.shape)


def _hidden(model: PreTrainedModel, head: Head, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (N, H) and targets (N,) where something is asked, and where that is (N,)."""
    asked = (batch.targets.flatten() != IGNORED).nonzero().squeeze(1)  # known before a GPU starts
    targets = batch.targets.flatten()[asked].to(model.device)
    asked = asked.to(model.device)
    with beheaded(head.linear) as caught:
        model(input_ids=batch.inputs.to(model.device), use_cache=False)
    return caught[0].flatten(0, 1)[asked], targets, asked


def _chunks(hidden: Tensor, targets: Tensor, rows: int) -> Any:
    return zip(hidden.split(max(1, rows)), targets.split(max(1, rows)), strict=True)


def _through_finish(gradient: Tensor, finished: Tensor, head: Head) -> None:
    """Turn the gradient of finished logits into that of the linear map's, in place."""
    if head.softcap is not None:
        gradient *= 1 - (finished / head.softcap) ** 2
    if head.scale != 1.0:
        gradient *= head.scale


def _add_product(total: Tensor | None, gradient: Tensor, rows: Tensor) -> Tensor:
    """`total` + gradient.T @ rows; the first as it is, a sum in fp32."""
    if total is None:
        return gradient.T @ rows
    if gradient.dtype is torch.float32:
        return total.addmm_(gradient.T, rows)
    return total.float().add_(gradient.T @ rows)
