"""The gradient of the head's weight, summed over chunks of logits."""

import torch
from torch import Tensor

from lmft.model.chunks import sizes_on
from lmft.optimizer import slices


class WeightGradient:
    """Accumulates the gradient of the head's weight (V, H), in slices of the vocabulary.

    On a CPU, a slice's product takes three fifths of its share of the time of the whole product.
    """

    def __init__(self, weight: Tensor, chunks: int):
        self._dtype, self._slice = weight.dtype, sizes_on(weight.device).slice
        # One tensor, although slices could be freed one by one in the end: products allocated in
        # between them left gaps that glibc did not use again.
        self._sum = torch.empty_like(weight, dtype=torch.float32 if chunks > 1 else None)
        self._is_empty = True

    def add(self, gradient: Tensor, rows: Tensor) -> None:
        """Add gradient.T @ rows."""
        add = _set_to_product if self._is_empty else _add_product
        totals, parts = self._sum.split(self._slice), gradient.split(self._slice, dim=1)
        for total, part in zip(totals, parts, strict=True):
            add(total, part.T, rows)
        self._is_empty = False

    def total(self) -> Tensor:
        """Return the sum."""
        return self._sum.to(self._dtype)


def _set_to_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Set `total`, in the dtype of both or in fp32, to left @ right.

    A CPU rounds the product to the dtype of both first.
    """
    if total.dtype is left.dtype:
        torch.mm(left, right, out=total)
    elif total.is_cuda:
        torch.mm(left, right, out_dtype=torch.float32, out=total)
    else:
        total.copy_(left @ right)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to `total`, which is in fp32."""
    if not total.is_cuda:
        # Slice by slice, since torch converts what it adds to fp32 first.
        for part, product in zip(slices(total), slices(left @ right), strict=True):
            part += product
    elif left.dtype is torch.float32:
        total.addmm_(left, right)
    else:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
