"""Attention with dropout: the dice are fair, made twice the same, and the gradients are right."""

import math

import pytest
import torch

from lmft.kernels.attention import QUERIES, DropoutAttention, attention, chunks
from lmft.kernels.dice import Dice


def dense(query, key, value, mask, causal, scale, dropout, seed):
    """The same by autograd, on whole weights."""
    dice, outs = Dice(dropout, seed), []
    for rows, keys in chunks(query.shape[2], key.shape[2], causal):
        weights = attention(query, key, mask, rows, keys, causal, scale)
        kept = dice.thin_out(torch.ones_like(weights))
        outs.append((weights * kept) @ value[:, :, :keys])
    return torch.cat(outs, dim=2)


@pytest.mark.parametrize("masked", ["causal", "all", "bool", "added"])
def test_gradients_are_those_of_autograd_with_the_same_dice(masked):
    torch.manual_seed(0)
    size = 2 * QUERIES + 5
    query, key, value = (
        torch.randn(2, 3, size, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)
    )
    seen = torch.rand(2, 1, size, size) < 0.8
    seen[..., 0] = True
    mask = {
        "bool": seen,
        "added": torch.zeros(2, 1, size, size, dtype=torch.float64).masked_fill(~seen, -1e9),
    }.get(masked)
    into = torch.randn(2, 3, size, 8, dtype=torch.float64)
    found = {}
    for attend in (DropoutAttention.apply, dense):
        out = attend(query, key, value, mask, masked == "causal", 0.3, 0.1, 7)
        found[attend] = [out, *torch.autograd.grad(out, (query, key, value), into)]
    for ours, theirs in zip(*found.values(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_dice_are_fair_and_their_mean_is_one():
    for dropout in (0.1, 0.5, 0.003):
        kept = Dice(dropout, 3).thin_out(torch.ones(10**6))
        share = (kept == 0).double().mean().item()
        assert abs(share - dropout) < 5 * math.sqrt(dropout / 10**6) + 1e-5
        assert abs(kept.double().mean().item() - 1) < 5 * math.sqrt(dropout / 10**6)
    one, two = (Dice(0.5, seed).thin_out(torch.ones(100)) for seed in (1, 2))
    assert not torch.equal(one, two)
