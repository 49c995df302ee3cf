"""Compiled layers: the losses of others, compiled once for all layers, and for whole batches."""

from functools import partial
from itertools import islice

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from lmft.config.training_knobs import Precision
from lmft.hardware.device import Hardware
from lmft.model.mixed_precision import build_network
from tests.helpers.architectures import CAUSAL, MASKED, build_tiny
from tests.helpers.training import start_training

# torch warns of the insides of its compiler.
pytestmark = pytest.mark.filterwarnings("ignore")
KINDS = ["gpt2", "llama", "bert", "qwen2"]
SOAKED = [
    pytest.param(kind, marks=pytest.mark.soak) for kind in [*CAUSAL, *MASKED] if kind not in KINDS
]


def build(kind, compiled, precision=Precision.fp32, dropout=0.0):
    model = build_tiny(kind)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        elif isinstance(getattr(module, "dropout", None), float):  # as of OPT
            module.dropout = dropout
    hardware = Hardware(torch.device("cpu"), precision, 4, compiled, False)
    return build_network(model, hardware)


def losses(network, precision=Precision.fp32, steps=10):
    _, taken = start_training(network, precision=precision)
    return [step.loss.mean for step in islice(taken, steps)]


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.parametrize("kind", [*KINDS, *SOAKED])
def test_compiled_layers_have_the_losses_of_others(kind):
    plain = losses(build(kind, False), steps=50)
    compiled = losses(build(kind, True), steps=50)
    assert compiled[:10] == pytest.approx(plain[:10], rel=1e-6)
    assert compiled == pytest.approx(plain, rel=1e-5)
    if kind in KINDS:  # one graph for the two layers
        assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


@pytest.mark.soak
def test_compiled_bf16_has_the_losses_of_others():
    plain, compiled = (losses(build("gpt2", c, Precision.bf16), Precision.bf16) for c in (0, 1))
    assert compiled == pytest.approx(plain, rel=5e-3)


@torch.no_grad()
def test_only_whole_batches_are_compiled():
    network = build("gpt2", True)
    call = partial(network.compute_model, input_ids=torch.arange(8)[None], use_cache=False)
    with network.compiled(False):
        call()
    call()  # as an evaluation does
    assert counters["stats"]["unique_graphs"] == 0
    with network.compiled(True):
        for _ in range(3):
            call()
    assert counters["stats"]["unique_graphs"] == 1
    assert all("forward" not in vars(module) for module in network.compute_model.modules())


@torch.no_grad()
def test_compiled_dropout_drops_its_share_with_a_new_mask_in_each_layer_and_step():
    network = build("gpt2", True, dropout=0.5)
    layers, outputs = network.compute_model.transformer.h, []
    for layer in layers:
        layer.mlp.register_forward_hook(lambda *call: outputs.append(call[2].detach().clone()))
    network.compute_model.train()
    with network.compiled(True):
        for step in range(2):
            torch.manual_seed(step)
            network.compute_model(input_ids=torch.arange(16).view(2, 8), use_cache=False)
    kept = [(output != 0) for output in outputs]
    assert len(kept) == 4
    for mask in kept:
        assert mask.float().mean() == pytest.approx(0.5, abs=0.1)
    assert not any(torch.equal(kept[i], kept[j]) for i in range(4) for j in range(i))
