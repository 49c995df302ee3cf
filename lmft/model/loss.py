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

from lmft.model.lm_head import Head, without_head
from lmft.objective import IGNORED, Batch

CHUNK = 2**27  # bytes of logits in memory at once; each adds to an fp32 gradient of all weights

SCORED = 2**25  # the same where nothing is learnt

# Logits that are worked on at once, in fp32: what a processor's cache holds; elsewhere starting the
# work would take longer than doing it.
PART = {"cpu": 2**20}

LARGE_PART = 2**25


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
    found = [nats.new_zeros(0)]
    for rows, picked in _chunks(hidden, targets, head.linear.weight, SCORED):
        found += _score(head.linear(rows), picked, head)
    nats[asked] = torch.cat(found)
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
        chunks = _chunks(hidden, targets, weight, CHUNK)
        into_weight = WeightGradient(weight, chunks=len(chunks))
        into_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        start = 0
        for rows, asked in chunks:
            logits = F.linear(rows, weight, bias)  # (n, V); become their gradient, part by part
            for part, picked in _parts(logits, asked):
                some_nats, gradient = _nats_and_gradient(part, picked, head)
                nats += some_nats
                part.copy_(gradient)
                if into_bias is not None:
                    into_bias += gradient.sum(dim=0)
            into_hidden[start : start + len(rows)] = times(logits, weight).div_(divisor)
            into_weight.add(logits, rows / divisor)
            start += len(rows)
            del logits, part  # before the next chunk's are made
        ctx.save_for_backward(
            into_hidden,
            into_weight.whole(),
            None if into_bias is None else into_bias.div_(divisor).to(weight.dtype),
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
    with without_head(head.linear) as caught:
        model(input_ids=batch.inputs.to(model.device), use_cache=False)
    return caught[0].flatten(0, 1)[asked], targets, asked


def _score(logits: Tensor, targets: Tensor, head: Head) -> list[Tensor]:
    """The nats of each target, in parts (n,)."""
    return [
        F.cross_entropy(head.finish(part.float()), picked, reduction="none")
        for part, picked in _parts(logits, targets)
    ]


def _nats_and_gradient(logits: Tensor, targets: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """Summed nats (), and their gradient by the logits as the linear map makes them: (n, V)."""
    finished = head.finish(logits.float())
    gradient = torch.softmax(finished, dim=-1)
    # The sum of all exponentials, from the largest: its share of them can't vanish.
    log_sums = finished.amax(dim=-1, keepdim=True) - gradient.amax(dim=-1, keepdim=True).log()
    picked = targets[:, None]
    nats = (log_sums - finished.gather(1, picked)).sum()
    gradient.scatter_add_(1, picked, gradient.new_full(picked.shape, -1.0))
    if head.softcap is not None:
        gradient *= 1 - (finished / head.softcap) ** 2
    if head.scale != 1.0:
        gradient *= head.scale
    return nats, gradient


def _chunks(
    hidden: Tensor, targets: Tensor, weight: Tensor, size: int
) -> list[tuple[Tensor, Tensor]]:
    """Rows and targets, in as few equal chunks as make at most `size` bytes of logits each."""
    most = max(1, size // (len(weight) * weight.element_size()))
    count = max(1, -(-len(hidden) // most))
    return list(zip(hidden.tensor_split(count), targets.tensor_split(count), strict=True))


def _parts(logits: Tensor, targets: Tensor) -> Any:
    """Few rows at a time."""
    size = max(1, PART.get(logits.device.type, LARGE_PART) // logits.shape[1])
    return zip(logits.split(size), targets.split(size), strict=True)


SLICE = 2**13  # words of the vocabulary


def times(gradient: Tensor, weight: Tensor) -> Tensor:
    """Gradient @ weight, in fp32, slice by slice of the vocabulary: 7 % quicker on a CPU."""
    slices = zip(gradient.split(SLICE, dim=1), weight.split(SLICE), strict=True)
    products = (columns @ some for columns, some in slices)
    total: Tensor = next(products).float()
    for product in products:
        total += product
    return total


class WeightGradient:
    """That of the head's weight (V, H), added up slice by slice of the vocabulary.

    On a CPU the product of a slice takes three fifths of its share in the product of all.
    """

    def __init__(self, weight: Tensor, chunks: int):
        self._weight = weight
        self._only = torch.empty_like(weight) if chunks == 1 else None
        self._slices: list[Tensor] = []  # in fp32, where several chunks add up

    def add(self, gradient: Tensor, rows: Tensor) -> None:
        """Add gradient.T @ rows."""
        parts = [columns.T for columns in gradient.split(SLICE, dim=1)]
        if self._only is not None:
            for into, part in zip(self._only.split(SLICE), parts, strict=True):
                torch.mm(part, rows, out=into)
        elif not self._slices:
            self._slices = [(part @ rows).float() for part in parts]
        else:
            for some, part in zip(self._slices, parts, strict=True):
                some += part @ rows

    def whole(self) -> Tensor:
        """All of it, once; the slices go on the way, so that nothing is there twice."""
        if self._only is not None:
            return self._only
        count, dtype = len(self._slices), self._weight.dtype
        return torch.cat([self._slices.pop(0).to(dtype) for _ in range(count)])
