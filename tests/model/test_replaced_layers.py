"""Layers that replace those of transformers and peft: the same function, and less saved."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from lmft.adapter.attach import Base, attach_new
from lmft.analysis.plan.activations import MemoryCounter
from lmft.config.model_knobs import AdapterBias, AdapterConfig, AdapterKind, Quantize
from lmft.model.kernels.gated_mlp import GatedMLP
from lmft.model.kernels.recompute import RecomputeHooks
from lmft.model.kernels.replace import replace_cpu_layers
from lmft.model.kernels.rms_norm import RMSNorm
from tests.helpers.architectures import CAUSAL, build_tiny

WITH_RMS_NORM = {"llama", "qwen2", "qwen3", "mistral", "phi3", "granite", "glm", "smollm3"}
WITH_GATED_MLP = WITH_RMS_NORM - {"phi3", "glm"} | {"cohere", "olmo2", "stablelm"}


def gradients(model, ids, hooks):
    """The loss and all gradients, and the bytes that are saved for the backward pass."""
    model(input_ids=ids, use_cache=False)  # what is built once
    with MemoryCounter(lambda: []) as meter:
        with hooks:
            loss = model(input_ids=ids, use_cache=False).logits.double().square().mean()
        saved = meter.alive
        loss.backward()
    found = [weight.grad for weight in model.parameters() if weight.grad is not None]
    return [loss.detach(), *found], saved


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", CAUSAL)
def test_they_change_no_bit_of_loss_or_gradients_and_save_less(kind, dtype):
    model, ids = build_tiny(kind).to(dtype), torch.randint(3, 97, (2, 16))
    other = copy.deepcopy(model)
    replace_cpu_layers(other)
    kinds = {type(module) for module in other.modules()}
    assert (RMSNorm in kinds) == (kind in WITH_RMS_NORM and dtype is not torch.float32)
    assert (GatedMLP in kinds) == (kind in WITH_GATED_MLP)
    assert other.state_dict().keys() == model.state_dict().keys()
    (plain, saved), (ours, less) = (
        gradients(one, ids, RecomputeHooks(one)) for one in (model, other)
    )
    assert len(plain) == len(ours) > 1 and all(map(torch.equal, plain, ours))
    assert less < saved if {RMSNorm, GatedMLP} & kinds else less == saved


def nodes(tensor):
    """The names of the nodes in a tensor's autograd graph, each once."""
    seen, left = set(), [tensor.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [after for after, _ in node.next_functions]
    return [node.name() for node in seen]


def attach(model, kind=AdapterKind.lora, rank=4, alpha=None, dropout=0.0, bias=AdapterBias.none):
    """Attach an adapter to all linear maps of the layers, with random weights."""
    config = AdapterConfig(kind, rank, alpha, dropout, bias, "auto", [], Quantize.none)
    attach_new(model, config, Base("base", None), is_causal=True, seed=0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # as long as it is 0, so are the gradients of A
            nn.init.normal_(weight)


class OtherNorm(nn.Module):
    """An RMSNorm that multiplies by 1 + weight, under the attributes of Llama's."""

    def __init__(self):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.zeros(8)), 1e-6

    def forward(self, values):
        return (1 + self.weight) * nn.functional.rms_norm(values, (8,))


def test_a_norm_of_another_formula_is_kept():
    model = nn.ModuleDict({"OtherRMSNorm": type("OtherRMSNorm", (OtherNorm,), {})().bfloat16()})
    replace_cpu_layers(model)
    assert isinstance(model["OtherRMSNorm"], OtherNorm)


def test_an_mlp_of_quantized_weights_is_kept():
    model = build_tiny("llama")
    for layer in model.model.layers:
        weight = torch.zeros(8, 1, dtype=torch.uint8)
        layer.mlp.gate_proj.weight = nn.Parameter(weight, requires_grad=False)
    replace_cpu_layers(model)
    assert GatedMLP not in map(type, model.modules())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("rank, alpha", [(4, None), (3, 10)])
def test_a_lora_layer_is_that_of_peft(kind, rank, alpha):
    model, ids = build_tiny(kind), torch.randint(3, 97, (2, 16))
    attach(model, rank=rank, alpha=alpha)
    model.double()
    other = copy.deepcopy(model)
    replace_cpu_layers(other)
    plain, ours = (gradients(one, ids, nullcontext())[0] for one in (model, other))
    assert len(plain) == len(ours) > 1
    for one, another in zip(plain, ours, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-9, atol=1e-12)
    assert nodes(other(input_ids=ids).logits).count("LoraMapBackward") == sum(
        hasattr(module, "lora_A") for module in model.modules()
    )


@pytest.mark.parametrize(
    "knobs", [{"dropout": 0.1}, {"bias": AdapterBias.all}, {"kind": AdapterKind.dora}]
)
def test_other_adapters_are_computed_by_peft(knobs):
    model, ids = build_tiny("gpt2"), torch.randint(3, 97, (2, 16))
    attach(model, **knobs)
    replace_cpu_layers(model)
    assert "LoraMapBackward" not in nodes(model(input_ids=ids).logits)
