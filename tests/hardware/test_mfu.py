"""MFU: FLOPs are those that torch itself counts."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lmft.config.training_knobs import Precision
from lmft.hardware import mfu
from lmft.hardware.device import Hardware
from lmft.hardware.mfu import estimate_flops, measure_peak_throughput
from lmft.model.lm_head import find_head
from lmft.model.loss import mean_nats, to_device
from lmft.objective import IGNORED, Batch
from tests.helpers.architectures import CAUSAL, MASKED, build_tiny

HARDWARE = Hardware(torch.device("cpu"), Precision.bf16, 4, False, False)
SHARING = {"albert"}  # goes through one layer several times


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    ids, asked = torch.randint(3, 97, (2, 3, 16), generator=generator)
    hidden = torch.rand(3, 16, generator=generator) < 0.3
    return Batch(ids, asked.masked_fill(~hidden, IGNORED))


@pytest.mark.parametrize("kind", sorted({*CAUSAL, *MASKED} - SHARING))
def test_the_operations_of_a_step_are_those_that_torch_counts(kind, batch):
    model = build_tiny(kind)
    model.set_attn_implementation("eager")  # torch counts no other on a CPU
    head = find_head(model)
    with FlopCounterMode(display=False) as counter:
        mean, _ = mean_nats(model, head, to_device(batch, head, model.device), batch.num_targets)
        mean.backward()
    estimate = estimate_flops(model, HARDWARE, causal=False)
    assert estimate.flops([batch]) == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_a_causal_model_needs_half_the_attention_and_parts_add_up(batch):
    model = build_tiny("gpt2")
    every, before = (estimate_flops(model, HARDWARE, causal) for causal in (False, True))
    pairs = 3 * 16**2
    spared = every.flops([batch]) - before.flops([batch])
    assert spared == pytest.approx(6 * 2 * 32 * pairs)  # 2 layers of width 32
    whole = before.flops([batch])
    assert sum(before.flops([part]) for part in batch.split(1)) == pytest.approx(whole)
    known = replace(before, peak=whole)
    assert known.mfu([batch], 1.0) == 1.0 and known.mfu([batch], 4.0) == 0.25


def test_measuring_the_rate_leaves_the_random_generator_alone():
    before = torch.get_rng_state()
    assert measure_peak_throughput.__wrapped__(HARDWARE.device, torch.float32) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_a_held_product_takes_the_time_that_its_size_asks_for(monkeypatch):
    monkeypatch.setattr(mfu, "HELD_SECONDS", 0.02)
    small, large = (
        mfu.hold_matrix_product(size, torch.device("cpu"), torch.float32) for size in (64, 512)
    )
    assert 0 < 10 * small < large < 1  # 512 times the operations
