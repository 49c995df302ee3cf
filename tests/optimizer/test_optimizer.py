"""The optimizer's step: learning rate, clipping, decay, and AdamW in slices."""

from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch
from torch.optim import SGD, AdamW

from lmft import optimizer as optimizer_module
from lmft.config.training_knobs import Precision
from lmft.model import network as networks
from lmft.model.mixed_precision import build_network
from lmft.optimizer import (
    build_optimizer,
    learning_rate_factor,
    take_step,
    take_step_in_slices,
)
from tests.helpers.architectures import build_tiny
from tests.helpers.training import CONFIG, hardware, start_training, without_dropout


def test_the_learning_rate_rises_then_falls_so_that_nothing_is_left_after_the_last_step():
    linear = [learning_rate_factor("linear", 0, step, 4) for step in (1, 2, 3, 4)]
    assert linear == [1, 0.75, 0.5, 0.25]
    warm = [learning_rate_factor("cosine", 3, step, 9) for step in range(1, 11)]
    assert warm[:4] == [0.25, 0.5, 0.75, 1.0]
    assert warm[4:] == sorted(warm[4:], reverse=True) and warm[-1] == pytest.approx(0)
    assert learning_rate_factor("constant", 0, 99, 100) == 1


@pytest.mark.parametrize("make", [SGD, partial(AdamW, eps=0.1)])
def test_a_fused_optimizer_clips_as_any_other(make):
    moved = []
    for fused in (False, True):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(3, 5))
        optimizer = make([weight], lr=0.1, fused=fused)
        for clip_divisor in (4.0, 1.0):
            weight.grad = torch.randn_like(weight)
            take_step(optimizer, [weight.grad], clip_divisor)
        moved.append(weight.detach().clone())
    assert torch.allclose(*moved, rtol=1e-5)
    plain = make([weight], lr=0.1)
    weight.grad = 4 * torch.ones_like(weight)
    take_step(plain, [weight.grad], 4.0)
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_only_matrices_and_embeddings_decay():
    model = build_tiny("gpt2")
    optimizer = build_optimizer(partial(AdamW, lr=1, weight_decay=0.1), model)
    decay = {id(w): g["weight_decay"] for g in optimizer.param_groups for w in g["params"]}
    for name, weight in model.named_parameters():
        expected = 0.0 if "ln" in name or "bias" in name else 0.1
        assert decay[id(weight)] == expected, name


@pytest.mark.parametrize("max_grad_norm", [0.01, 100.0])  # clipped, and not
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_step_in_slices_is_that_of_torch(kind, max_grad_norm, monkeypatch):
    monkeypatch.setattr(optimizer_module, "SLICE", 1024)
    config, found, taken = replace(CONFIG, max_grad_norm=max_grad_norm), [], []
    monkeypatch.setattr(
        networks,
        "take_step_in_slices",
        lambda *given: taken.append(take_step_in_slices(*given)),
    )
    for in_slices in (True, False):
        if not in_slices:
            monkeypatch.setattr(networks, "can_step_in_slices", lambda *given: False)
        network = build_network(without_dropout(kind), hardware(Precision.bf16))
        optimizer, steps = start_training(network, precision=Precision.bf16, config=config)
        assert all(step.grad_norm > 0 for step in islice(steps, 20))
        for weight, low_precision in network.low_precision_weights.items():
            assert torch.equal(low_precision, weight.bfloat16())
            assert weight.grad is low_precision.grad is None
        state = [*optimizer.state.values()]
        found.append([*network.model.parameters(), *(v for some in state for v in some.values())])
    assert len(taken) == 19  # the first makes the optimizer's state
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-9)
