"""Attention, dropout and recomputation: values and gradients are those of plain torch."""

import gc
import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lmft.analysis.plan.activations import MemoryCounter
from lmft.model.kernels import attention, cpu_attention
from lmft.model.kernels.attention import attend
from lmft.model.kernels.cpu_attention import (
    QUERIES_PER_CHUNK,
    AttentionSpec,
    ChunkedAttention,
    ShortAttention,
)
from lmft.model.kernels.dropout import DropoutMask
from lmft.model.kernels.recompute import RecomputeHooks
from tests.helpers.architectures import CAUSAL, MASKED, build_tiny


def dense(query, key, value, mask, terms):
    """The same attention by autograd, on whole matrices of weights; dropout chunk by chunk."""
    dropout_mask, outs = DropoutMask(terms.dropout, terms.seed), []
    scores = terms.scale * query @ key.transpose(2, 3)
    if terms.causal:
        scores += torch.full_like(scores, -math.inf).triu(1)
    elif mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -math.inf)
    elif mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1)
    for rows, keys in cpu_attention.query_chunks(query.shape[2], key.shape[2], terms.causal):
        part = weights[:, :, rows, :keys]
        outs.append((part * dropout_mask.draw(part.shape, part.dtype)) @ value[:, :, :keys])
    return torch.cat(outs, dim=2)


@pytest.mark.parametrize("heads_per_tile", [1, 2, 3])  # one, some or all of an example's
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("masked", ["causal", "all", "bool", "added"])
def test_the_size_of_tiles_changes_no_bit(masked, dtype, heads_per_tile, monkeypatch):
    torch.manual_seed(0)
    size = 2 * QUERIES_PER_CHUNK + 5
    heads = [torch.randn(2, 3, size, 8, dtype=dtype, requires_grad=True) for _ in range(3)]
    seen = torch.rand(2, 1, size, size) < 0.8
    mask = {"bool": seen, "added": seen.to(dtype)}.get(masked)
    into, found = torch.randn(2, 3, size, 8, dtype=dtype), []
    for count in (2 * 3, heads_per_tile):
        bytes_of_head = QUERIES_PER_CHUNK * size * dtype.itemsize
        monkeypatch.setattr(cpu_attention, "TILE", count * bytes_of_head)
        out = ChunkedAttention.apply(*heads, mask, AttentionSpec(masked == "causal", 0.3, 0.1, 7))
        found.append([out, *torch.autograd.grad(out, heads, into)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("kernel", [ShortAttention, ChunkedAttention])
@pytest.mark.parametrize("masked", ["causal", "all", "bool", "added"])
def test_gradients_are_those_of_autograd_with_the_same_dropout_mask(masked, kernel, monkeypatch):
    torch.manual_seed(0)
    size = 2 * QUERIES_PER_CHUNK + 5
    if kernel is ShortAttention:
        monkeypatch.setattr(cpu_attention, "QUERIES_PER_CHUNK", size)
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
    for attended in (kernel.apply, dense):
        out = attended(query, key, value, mask, AttentionSpec(masked == "causal", 0.3, 0.1, 7))
        found[attended] = [out, *torch.autograd.grad(out, (query, key, value), into)]
    for ours, theirs in zip(*found.values(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("masked", ["causal", "all", "bool"])
@pytest.mark.parametrize("kernel", [ShortAttention, ChunkedAttention])
def test_without_dropout_it_is_that_of_torch(kernel, masked, heads, monkeypatch):
    monkeypatch.setattr(attention, "SHORT_BLOCK", 10**6 if kernel is ShortAttention else 0)
    torch.manual_seed(0)
    size = QUERIES_PER_CHUNK + 5
    query, key, value = (
        torch.randn(2, some, size, 8, dtype=torch.bfloat16, requires_grad=True)
        for some in (3, heads, heads)
    )
    mask = (torch.rand(2, 1, size, size) < 0.8) | torch.eye(size, dtype=torch.bool)
    mask = mask if masked == "bool" else None
    causal = masked == "causal"
    ours, _ = attend(nn.Module(), query, key, value, mask, scaling=0.3, is_causal=causal)
    assert kernel.__name__ in repr(graph_of(ours))
    exact = [some.detach().double().requires_grad_() for some in (query, key, value)]
    theirs = F.scaled_dot_product_attention(
        *exact, mask, is_causal=causal, scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    into = torch.randn_like(theirs)
    for one, other in zip(
        [ours, *torch.autograd.grad(ours, (query, key, value), into.bfloat16())],
        [theirs, *torch.autograd.grad(theirs, exact, into)],
        strict=True,
    ):
        assert (one - other).norm() < 0.01 * other.norm()


def graph_of(tensor):
    """The names of the nodes in a tensor's autograd graph."""
    found, nodes = [], [tensor.grad_fn]
    while nodes:
        node = nodes.pop()
        found.append(node.name())
        nodes += [after for after, _ in node.next_functions if after is not None]
    return found


def test_short_attention_drops_the_given_share_of_weights_and_scales_up_the_others():
    size, ones = 64, torch.ones(4, 4, 64, 64)
    value = torch.eye(size).expand(4, 4, size, size)  # so that the weights come out
    torch.manual_seed(0)
    weights, _ = attend(nn.Module(), 0 * ones, ones, value, None, 0.1, is_causal=False)
    kept = weights[weights != 0]
    assert torch.allclose(kept, torch.full_like(kept, 1 / size / 0.9), rtol=1e-4)
    assert abs(1 - len(kept) / weights.numel() - 0.1) < 5 * math.sqrt(0.1 / weights.numel())


def test_dropout_masks_drop_the_given_share_and_have_mean_one():
    for dropout in (0.1, 0.5, 0.003):
        kept = DropoutMask(dropout, 3).draw([10**6], torch.float32)
        share = (kept == 0).double().mean().item()
        assert abs(share - dropout) < 5 * math.sqrt(dropout / 10**6) + 1e-5
        assert abs(kept.double().mean().item() - 1) < 5 * math.sqrt(dropout / 10**6)
    one, two = (DropoutMask(0.5, seed).draw([100], torch.float32) for seed in (1, 2))
    assert not torch.equal(one, two)


def gradients_and_kept(model, ids, recompute_hooks):
    """The gradients, and the bytes that are saved for the backward pass."""
    with MemoryCounter(lambda: []) as meter:
        with recompute_hooks:
            loss = model(input_ids=ids).logits.double().square().mean()
        kept = meter.alive
        loss.backward()
    found = [weight.grad for weight in model.parameters() if weight.grad is not None]
    model.zero_grad()
    return found, kept


@pytest.mark.parametrize("kind", [*CAUSAL, *MASKED])
def test_recomputed_outputs_change_no_bit_and_are_not_kept(kind):
    model, ids = build_tiny(kind), torch.randint(3, 97, (2, 16))
    plain, kept = gradients_and_kept(model, ids, nullcontext())
    ours, less = gradients_and_kept(model, ids, RecomputeHooks(model))
    assert less < kept
    assert len(ours) == len(plain) and all(map(torch.equal, ours, plain))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "opt", "bert"])
def test_what_gets_no_backward_pass_is_freed_at_once(kind):
    model, ids = build_tiny(kind), torch.randint(3, 97, (2, 16))
    model(input_ids=ids)  # what is built once and stays
    gc.disable()  # which might find it later
    try:
        with MemoryCounter(lambda: []) as meter:
            with RecomputeHooks(model):
                loss = model(input_ids=ids, use_cache=False).logits.sum()
            assert meter.alive > 0
            del loss
            assert meter.alive == 0
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made,
        lambda made: made.mul_(2),
        lambda made: made[:, 1:],
        lambda made: made.transpose(0, 1),
        lambda made: made.view(2, 3, 4)[:, 0],
        lambda made: F.relu(made, inplace=True),
    ],
)
@pytest.mark.parametrize("part", [nn.SiLU(), nn.SiLU(inplace=True)])
def test_a_changed_output_is_not_recomputed_as_if_it_were_the_original(part, change):
    torch.manual_seed(0)
    weight = torch.randn(12, 12, requires_grad=True)
    start, found = torch.randn(2, 12), []
    for recompute_hooks in (nullcontext(), RecomputeHooks(part)):
        with recompute_hooks:
            made = change(part(start @ weight))
            later = torch.ones(made.shape[-1], 3, requires_grad=True)
            out = (made @ later).square().sum()
        found.append(torch.autograd.grad(out, (weight, later)))
    assert all(map(torch.equal, *found))


class GatedNorm(nn.LayerNorm):
    """A norm that may take a second input."""

    def forward(self, values, gate=None):
        normed = super().forward(values)
        return normed if gate is None else normed * gate


def test_what_takes_more_than_one_input_is_kept():
    torch.manual_seed(0)
    part, weight = GatedNorm(12), torch.randn(12, 12, requires_grad=True)
    start, gate = torch.randn(2, 12), torch.randn(2, 12)
    calls = (lambda: part(start), lambda: part(values=start), lambda: part(start, gate=gate),
             lambda: part(start, gate))  # fmt: skip
    for call in calls:
        found = []
        for recompute_hooks in (nullcontext(), RecomputeHooks(part)):
            with recompute_hooks:
                out = (call() @ weight).square().sum()
            found.append(torch.autograd.grad(out, weight)[0])
        assert torch.equal(*found)
