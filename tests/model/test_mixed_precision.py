"""Mixed precision: no number format, kernel or recomputation changes what is learned."""

import copy
import math
from dataclasses import replace
from itertools import islice

import pytest
import torch

from lmft.config.training_knobs import Precision
from lmft.model.loss import target_nats
from lmft.model.mixed_precision import build_network
from lmft.model.network import Network
from lmft.objective import IGNORED, Batch
from lmft.trainer.gradients import DropoutSeeds, LossScale, accumulate_gradients, gradient_norm
from tests.helpers.architectures import build_tiny
from tests.helpers.training import Counting, hardware, losses, start_training, without_dropout


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def straight(request):
    """A model, and its losses over 100 steps with whole logits and transformers' own parts."""
    model = without_dropout(request.param)
    plain = copy.deepcopy(model)
    return model, losses(Network(plain, plain, head=None))


def test_in_fp32_kernels_and_chunks_change_no_loss(straight):
    model, expected = straight
    found = losses(build_network(copy.deepcopy(model), hardware()))
    assert found == pytest.approx(expected, rel=1e-5)
    assert found[-1] < 0.8 * found[0]


@pytest.mark.parametrize("precision", [Precision.bf16, Precision.fp16])
def test_bf16_and_fp16_stay_within_half_a_percent_of_fp32(straight, precision):
    model, expected = straight
    network = build_network(copy.deepcopy(model), hardware(precision))
    assert losses(network, precision) == pytest.approx(expected, rel=5e-3)
    for low_precision, weight in zip(
        network.compute_model.parameters(), network.model.parameters(), strict=True
    ):
        assert weight.dtype is torch.float32
        assert torch.equal(low_precision, weight.to(hardware(precision).dtype))


def test_buffers_are_not_rounded():
    network = build_network(build_tiny("llama"), hardware(Precision.bf16))
    assert {some.dtype for some in network.compute_model.buffers()} == {torch.float32}


def test_gradients_of_micro_batches_add_up_in_fp32():
    network = build_network(without_dropout("gpt2"), hardware(Precision.bf16))
    weight = network.compute_model.get_input_embeddings().weight
    master = network.model.get_input_embeddings().weight
    parts = [1.0, *[2**-9] * 64]  # the small ones are lost where sums are kept in bf16
    for part in parts:
        weight.grad = torch.full_like(weight, part)
        network.gradients_to_fp32()
    assert torch.equal(master.grad, torch.full_like(master, math.fsum(parts)))


def test_gradients_of_one_pass_stay_in_bf16_and_their_norm_is_exact():
    network = build_network(without_dropout("gpt2"), hardware(Precision.bf16))
    (batch,) = next(Counting().training(4, 0, False))
    for size, dtype in ((4, torch.bfloat16), (2, torch.float32)):
        few = replace(hardware(Precision.bf16), micro_batch_size=size)
        accumulate_gradients(network, [batch], few, DropoutSeeds(seed=0, step=1))
        gradients = network.gradients()
        assert {gradient.dtype for gradient in gradients} == {dtype}
        exact = torch.cat([gradient.double().flatten() for gradient in gradients]).norm()
        assert gradient_norm(gradients) == pytest.approx(float(exact), rel=1e-6)
        network.zero_gradients()
        assert not network.gradients()


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_recomputed_activations_change_no_bit(kind, precision):
    found = []
    for checkpoint in (False, True):
        network = build_network(build_tiny(kind), hardware(precision, checkpoint))
        found.append(losses(network, precision, steps=3))
        found.append([weight.clone() for weight in network.model.parameters()])
    assert found[0] == found[2]
    assert all(map(torch.equal, found[1], found[3]))


def test_fp16_resumes_with_the_same_loss_scale():
    network = build_network(build_tiny("gpt2"), hardware(Precision.fp16))
    optimizer, steps = start_training(network, scale=2.0**40, precision=Precision.fp16)
    three = list(islice(steps, 3))[-1]
    assert three.loss_scale < 2.0**40  # it overflowed, so that steps were repeated
    other = copy.deepcopy(network)
    state = copy.deepcopy(optimizer.state_dict())
    expected = [step.loss.nats for step in islice(steps, 3)]
    its_optimizer, its_steps = start_training(other, 3, three.loss_scale, Precision.fp16)
    its_optimizer.load_state_dict(state)
    assert [step.loss.nats for step in islice(its_steps, 3)] == expected
    assert all(map(torch.equal, network.model.parameters(), other.model.parameters()))


def test_the_loss_scale_halves_where_gradients_overflow_and_doubles_from_time_to_time():
    scale = LossScale(None)
    assert not scale.update(1, finite=False) and scale.value == LossScale.FIRST / 2
    assert scale.update(LossScale.DOUBLED_EVERY, finite=True) and scale.value == LossScale.FIRST
    scale.value = 1.0
    assert scale.update(2, finite=False)  # the scale can't fall further: the step reports it


def test_a_batch_without_targets_costs_nothing():
    network = build_network(build_tiny("bert"), hardware())
    ids = torch.randint(3, 97, (2, 8))
    nats = target_nats(
        network.compute_model, network.head, Batch(ids, torch.full_like(ids, IGNORED))
    )
    assert not nats.any()
