"""What computes and what learns: no format, kernel or saving of memory changes the law."""

import copy
import math
from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch

from lmft import optimizer as optimizer_room
from lmft.config.schema import OnNonfinite, Precision, Schedule, TrainerConfig
from lmft.hardware.device import Hardware
from lmft.hardware.mfu import Limit
from lmft.model import mixed_precision as network_room
from lmft.model.loss import target_nats
from lmft.model.mixed_precision import Network, build_network
from lmft.objective import IGNORED, Batch
from lmft.optimizer import build_optimizer, take_step_in_slices
from lmft.trainer.step import LossScale, accumulate_gradients, norm_of, train
from tests.model.test_loss import build

STOP = OnNonfinite.stop
CONFIG = TrainerConfig(1, None, 4, Schedule.linear, 0, 1.0, STOP, None, None, False, None, None)
LIMIT = Limit(rate=1.0, body=1, head=1, attention=1.0)
MORE_STEPS = 1000  # of the schedule


def hardware(precision=Precision.fp32, checkpoint=False):
    return Hardware(torch.device("cpu"), precision, 4, False, checkpoint)


def batches(start=0):
    """Text of a kind that can be learnt: each token is the one before, plus a few."""
    number = start
    while True:
        generator = torch.Generator().manual_seed(number)
        steps = torch.randint(1, 4, (4, 17), generator=generator)
        ids = 3 + steps.cumsum(dim=1) % 90
        yield [Batch(ids[:, :-1], ids[:, 1:].clone())]
        number += 1


def start(network, done=0, scale=None, precision=Precision.fp32, config=CONFIG):
    make = partial(torch.optim.AdamW, lr=1e-3, fused=True)
    optimizer, numbers = build_optimizer(make, network.model), range(done + 1, MORE_STEPS)
    return optimizer, train(
        network, batches(done), optimizer, hardware(precision), config, numbers, 0, LIMIT, scale
    )


def losses(network, precision=Precision.fp32, steps=100):
    return [step.loss.mean for step in islice(start(network, precision=precision)[1], steps)]


def without_dropout(kind):
    model = build(kind)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    if kind == "gpt2":
        for block in model.transformer.h:
            block.attn.attn_dropout.p = 0.0
    return model


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def straight(request):
    """A model, and its losses over 100 steps with whole logits and transformers' own parts."""
    model = without_dropout(request.param)
    strip_control = copy.deepcopy(model)
    return model, losses(Network(strip_control, strip_control, head=None))


def test_in_fp32_kernels_and_chunks_change_no_loss(straight):
    model, expected = straight
    found = losses(build_network(copy.deepcopy(model), hardware()))
    assert found == pytest.approx(expected, rel=1e-5)
    assert found[-1] < 0.8 * found[0]


@pytest.mark.parametrize("precision", [Precision.bf16, Precision.fp16])
def test_narrow_formats_stay_within_half_a_percent(straight, precision):
    model, expected = straight
    network = build_network(copy.deepcopy(model), hardware(precision))
    assert losses(network, precision) == pytest.approx(expected, rel=5e-3)
    for narrow, weight in zip(
        network.compute.parameters(), network.model.parameters(), strict=True
    ):
        assert weight.dtype is torch.float32
        assert torch.equal(narrow, weight.to(hardware(precision).dtype))


def test_buffers_are_not_rounded():
    network = build_network(build("llama"), hardware(Precision.bf16))
    assert {some.dtype for some in network.compute.buffers()} == {torch.float32}


def test_gradients_of_micro_batches_add_up_in_fp32():
    network = build_network(without_dropout("gpt2"), hardware(Precision.bf16))
    weight = network.compute.get_input_embeddings().weight
    master = network.model.get_input_embeddings().weight
    parts = [1.0, *[2**-9] * 64]  # the small ones are lost where sums are kept in bf16
    for part in parts:
        weight.grad = torch.full_like(weight, part)
        network.gradients_to_fp32()
    assert torch.equal(master.grad, torch.full_like(master, math.fsum(parts)))


@pytest.mark.parametrize("max_grad_norm", [0.01, 100.0])  # clipped, and not
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_step_in_slices_is_that_of_torch(kind, max_grad_norm, monkeypatch):
    monkeypatch.setattr(optimizer_room, "SLICE", 1024)
    config, found, taken = replace(CONFIG, max_grad_norm=max_grad_norm), [], []
    monkeypatch.setattr(
        network_room,
        "take_step_in_slices",
        lambda *given: taken.append(take_step_in_slices(*given)),
    )
    for in_slices in (True, False):
        if not in_slices:
            monkeypatch.setattr(network_room, "moves_in_slices", lambda *given: False)
        network = build_network(without_dropout(kind), hardware(Precision.bf16))
        optimizer, steps = start(network, precision=Precision.bf16, config=config)
        assert all(step.grad_norm > 0 for step in islice(steps, 20))
        for weight, low_precision in network.low_precision.items():
            assert torch.equal(low_precision, weight.bfloat16())
            assert weight.grad is low_precision.grad is None
        state = [*optimizer.state.values()]
        found.append([*network.model.parameters(), *(v for some in state for v in some.values())])
    assert len(taken) == 19  # the first makes the optimizer's state
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-9)


def test_gradients_of_one_pass_stay_narrow_and_their_norm_is_exact():
    network = build_network(without_dropout("gpt2"), hardware(Precision.bf16))
    (batch,) = next(batches())
    for size, dtype in ((4, torch.bfloat16), (2, torch.float32)):
        few = replace(hardware(Precision.bf16), micro_batch_size=size)
        accumulate_gradients(network, [batch], few, seed=0, step=1)
        gradients = network.gradients()
        assert {gradient.dtype for gradient in gradients} == {dtype}
        exact = torch.cat([gradient.double().flatten() for gradient in gradients]).norm()
        assert norm_of(gradients) == pytest.approx(float(exact), rel=1e-6)
        network.zero_gradients()
        assert not network.gradients()


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_activations_made_again_change_no_bit(kind, precision):
    found = []
    for checkpoint in (False, True):
        network = build_network(build(kind), hardware(precision, checkpoint))
        found.append(losses(network, precision, steps=3))
        found.append([weight.clone() for weight in network.model.parameters()])
    assert found[0] == found[2]
    assert all(map(torch.equal, found[1], found[3]))


def test_fp16_goes_on_with_the_scale_it_had():
    network = build_network(build("gpt2"), hardware(Precision.fp16))
    optimizer, steps = start(network, scale=2.0**40, precision=Precision.fp16)
    three = list(islice(steps, 3))[-1]
    assert three.loss_scale < 2.0**40  # which overflows, so that steps were taken again
    other = copy.deepcopy(network)
    state = copy.deepcopy(optimizer.state_dict())
    expected = [step.loss.nats for step in islice(steps, 3)]
    its_optimizer, its_steps = start(other, 3, three.loss_scale, Precision.fp16)
    its_optimizer.load_state_dict(state)
    assert [step.loss.nats for step in islice(its_steps, 3)] == expected
    assert all(map(torch.equal, network.model.parameters(), other.model.parameters()))


def test_the_loss_scale_halves_where_gradients_overflow_and_doubles_from_time_to_time():
    scale = LossScale(None)
    assert not scale.holds(1, finite=False) and scale.value == LossScale.FIRST / 2
    assert scale.holds(LossScale.DOUBLED_EVERY, finite=True) and scale.value == LossScale.FIRST
    scale.value = 1.0
    assert scale.holds(2, finite=False)  # nothing more can be done: the step tells of it


def test_evaluation_asks_nothing_where_nothing_is_asked():
    network = build_network(build("bert"), hardware())
    ids = torch.randint(3, 97, (2, 8))
    nats = target_nats(network.compute, network.head, Batch(ids, torch.full_like(ids, IGNORED)))
    assert not nats.any()
