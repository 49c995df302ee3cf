"""How the weights move: which of them decay, and how fast they go at each step."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from lmft.errors import UserError

SLICE = 2**18  # values


def build_optimizer(make: Callable[..., Optimizer], model: nn.Module) -> Optimizer:
    """An optimizer in which matrices and embeddings decay, biases and norms (one dimension) not.

    Raises:
        UserError: the optimizer refuses a value.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in weights if weight.ndim >= 2]},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]
    for name, value in getattr(make, "keywords", {}).items():
        if isinstance(value, str) and name != "adjust_lr_fn":  # Muon's, the only one that is a text
            raise UserError(f"optimizer.{name} is {value!r}, but takes no text; see optimizer.*.")
    try:
        optimizer = make([group for group in groups if group["params"]])
    except (IndexError, TypeError, ValueError) as error:
        raise UserError(f"The optimizer refuses its settings: {error}; see optimizer.*.") from error
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer


# What is left of the learning rate, by the share of the way from warm-up's end to the last step.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda way: 1 - way,
    "cosine": lambda way: (1 + math.cos(math.pi * way)) / 2,
    "constant": lambda way: 1.0,
}


def learning_rate_factor(schedule: str, warmup_steps: int, step: int, steps: int) -> float:
    """What the learning rate is multiplied with at `step` (1 for the first) of `steps`.

    It rises in equal parts over `warmup_steps`, then falls so that nothing would be left after the
    last step.
    """
    if step <= warmup_steps:
        return step / (warmup_steps + 1)
    return SCHEDULES[schedule]((step - 1 - warmup_steps) / max(1, steps - warmup_steps))


def take_step(optimizer: Optimizer, gradients: list[Tensor], clip_divisor: float) -> None:
    """Let the weights move, by gradients that are divided by `shrink` before.

    What torch's GradScaler asks of fused optimizers is asked of them here: they divide on the way.
    """
    if clip_divisor == 1.0:
        optimizer.step()
    elif getattr(optimizer, "_step_supports_amp_scaling", False) and type(gradients[0]) is Tensor:
        scaled: Any = optimizer
        scaled.grad_scale = torch.tensor(clip_divisor, device=gradients[0].device)
        optimizer.step()
        del scaled.grad_scale
    else:
        torch._foreach_div_(gradients, clip_divisor)
        optimizer.step()


def moves_in_slices(optimizer: Optimizer, weights: Iterable[Tensor]) -> bool:
    """Whether `take_step_in_slices` can move them: from the second step of a fused AdamW on."""
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
    """What torch's fused AdamW does, slice by slice, so that memory is passed through once.

    A slice's gradient is made wide, its weights moved and rounded for the twin while all are in the
    processor's cache; no more than one slice of wide gradients is there at a time.

    Args:
        optimizer: as `moves_in_slices` wants it.
        low_precision: narrow weights with their gradients, for each weight.
        clip_divisor: what gradients are divided by before.
    """
    scale = None if clip_divisor == 1.0 else torch.tensor(clip_divisor)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if (gradient := low_precision[weight].grad) is not None:
                _move(
                    weight, gradient, low_precision[weight], optimizer.state[weight], group, scale
                )


def _move(
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
    whole = weight, gradient, state["exp_avg"], state["exp_avg_sq"], low_precision
    for own, narrow, mean, square, rounded in zip(*map(slices, whole), strict=True):
        torch._fused_adamw_(
            [own], [narrow.float()], [mean], [square], [], [step], grad_scale=scale, **settings
        )
        rounded.copy_(own)


def slices(tensor: Tensor) -> tuple[Tensor, ...]:
    """Its values, in order, in parts that a processor's cache holds; views, if it is contiguous."""
    parts: tuple[Tensor, ...] = tensor.reshape(-1).split(SLICE)
    return parts


def set_learning_rate(optimizer: Optimizer, factor: float) -> float:
    """Give every group its share; returns the learning rate that now holds for the first."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return float(optimizer.param_groups[0]["lr"])
