"""The optimizer: parameter groups, learning-rate schedules, and the step itself."""

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from lmft.errors import UserError, did_you_mean

LIKE_LR = ("learning_rate", "step_size")  # what others call it
SLICE = 2**18  # elements; a slice of weights and optimizer state fits in the processor's cache


def build_optimizer(make: Callable[..., Optimizer], model: nn.Module) -> Optimizer:
    """Return the optimizer, with weight decay for matrices and embeddings only.

    Biases and norm weights, which have one dimension, do not decay.

    Args:
        make: creates the optimizer from parameter groups; a partial that holds the knobs.
        model: whose trainable parameters are optimized.

    Raises:
        UserError: the optimizer rejects a value.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in weights if weight.ndim >= 2]},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]
    kind = getattr(make, "func", make)
    known = inspect.signature(kind).parameters
    for name, value in getattr(make, "keywords", {}).items():
        if name not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            hint = " Did you mean 'lr'?" if name in LIKE_LR else did_you_mean(name, known)
            raise UserError(
                f"{kind.__name__} has no knob 'optimizer.{name}'; remove it with "
                f"~optimizer.{name}.{hint}"
            )
        if isinstance(value, str) and name != "adjust_lr_fn":  # of Muon; the only string
            raise UserError(
                f"optimizer.{name} is {value!r}, but must not be a string; set it to a number, a "
                "list or a boolean."
            )
    try:
        optimizer = make([group for group in groups if group["params"]])
    except (IndexError, TypeError, ValueError) as error:
        raise UserError(f"The optimizer rejects its settings: {error}; fix optimizer.*.") from error
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer


# Factor of the learning rate by progress, which is 0 at the end of the warm-up and 1 after the last
# step.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "constant": lambda progress: 1.0,
}


def learning_rate_factor(schedule: str, warmup_steps: int, step: int, steps: int) -> float:
    """Return the factor of the learning rate at `step` (1 is the first) of `steps`.

    It rises linearly over `warmup_steps`; then linear and cosine schedules fall so that they would
    reach 0 one step after the last.
    """
    if step <= warmup_steps:
        return step / (warmup_steps + 1)
    return SCHEDULES[schedule]((step - 1 - warmup_steps) / max(1, steps - warmup_steps))


def take_step(optimizer: Optimizer, gradients: list[Tensor], clip_divisor: float) -> None:
    """Apply the optimizer step with gradients divided by `clip_divisor`.

    Fused optimizers divide within their kernel, through the attribute that torch's GradScaler sets.
    Other gradients are divided in place.
    """
    if clip_divisor == 1.0:
        optimizer.step()
    elif can_skip_on_device(optimizer, gradients):
        scaled: Any = optimizer
        scaled.grad_scale = torch.tensor(clip_divisor, device=gradients[0].device)
        optimizer.step()
        del scaled.grad_scale
    else:
        torch._foreach_div_(gradients, clip_divisor)
        optimizer.step()


def can_skip_on_device(optimizer: Optimizer, gradients: list[Tensor]) -> bool:
    """Check whether `take_step_on_device` supports these gradients: fused, and not sharded."""
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    return fused and not isinstance(gradients[0], DTensor)


def take_step_on_device(optimizer: Optimizer, clip_divisor: Tensor, skip: Tensor) -> None:
    """Apply the optimizer step with divided gradients unless `skip` is 1, without reading either.

    Args:
        optimizer: one that `can_skip_on_device` accepts.
        clip_divisor: () fp32, on the device of the gradients.
        skip: () fp32: 1 leaves weights and optimizer state as they are, 0 takes the step.
    """
    scaled: Any = optimizer  # these attributes are the ones that torch's GradScaler sets
    scaled.grad_scale, scaled.found_inf = clip_divisor, skip
    optimizer.step()
    del scaled.grad_scale, scaled.found_inf


def can_step_in_slices(optimizer: Optimizer, weights: Iterable[Tensor]) -> bool:
    """Check whether `take_step_in_slices` supports these weights on the CPU.

    It needs fused AdamW and optimizer state, so it works from the second step on.
    """
    return (
        type(optimizer) is AdamW
        and all(group["fused"] and not group["amsgrad"] for group in optimizer.param_groups)
        and all(
            weight.device.type == "cpu" and weight.is_contiguous() and weight in optimizer.state
            for weight in weights
        )
    )


@torch.no_grad()
def take_step_in_slices(
    optimizer: Optimizer, low_precision: dict[Tensor, Tensor], clip_divisor: float
) -> None:
    """Apply fused AdamW slice by slice and round the new weights to the low-precision copy.

    For each slice the gradient is converted to fp32, the weights are updated and rounded while all
    of them are in the processor's cache. Memory is read once, and at most one slice of fp32
    gradients exists at a time.

    Args:
        optimizer: one that `can_step_in_slices` accepts.
        low_precision: for each fp32 weight its bf16 or fp16 copy, which has the gradient.
        clip_divisor: divides the gradients.
    """
    scale = None if clip_divisor == 1.0 else torch.tensor(clip_divisor)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if (gradient := low_precision[weight].grad) is not None:
                _step_weight(
                    weight, gradient, low_precision[weight], optimizer.state[weight], group, scale
                )


def _step_weight(
    weight: Tensor,
    gradient: Tensor,
    low_precision: Tensor,
    state: dict[str, Tensor],
    group: dict[str, Any],
    scale: Tensor | None,
) -> None:
    step = state["step"].add_(1)
    beta1, beta2 = group["betas"]
    names = ("lr", "weight_decay", "eps", "amsgrad", "maximize")
    settings = {name: group[name] for name in names} | {"beta1": beta1, "beta2": beta2}
    tensors = weight, gradient, state["exp_avg"], state["exp_avg_sq"], low_precision
    for master, grad, exp_avg, exp_avg_sq, rounded in zip(*map(slices, tensors), strict=True):
        torch._fused_adamw_(
            [master],
            [grad.float()],
            [exp_avg],
            [exp_avg_sq],
            [],
            [step],
            grad_scale=scale,
            **settings,
        )
        rounded.copy_(master)


def slices(tensor: Tensor) -> tuple[Tensor, ...]:
    """Split a tensor into flat slices of `SLICE` elements; views, if it is contiguous."""
    flat_slices: tuple[Tensor, ...] = tensor.reshape(-1).split(SLICE)
    return flat_slices


def set_learning_rate(optimizer: Optimizer, factor: float) -> float:
    """Multiply each group's base learning rate by `factor`; return that of the first group."""
    for group in optimizer.param_groups:
        learning_rate = group["base_lr"] * factor
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate
    return float(optimizer.param_groups[0]["base_lr"] * factor)


def can_be_recorded(optimizer: Optimizer) -> bool:
    """Check whether the optimizer's steps can be recorded as a CUDA graph: fused Adam or AdamW."""
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    return fused and "capturable" in optimizer.defaults


def prepare_recording(optimizer: Optimizer, device: torch.device) -> None:
    """Let a CUDA graph record the optimizer's steps: learning rates become tensors of `device`."""
    for group in optimizer.param_groups:
        group["capturable"], group["lr"] = True, torch.tensor(group["lr"], device=device)
