"""`lmft plan`: memory, disk and time are what a run then takes, and nothing is kept."""

import json
import re

import pytest
import torch

from lmft.analysis.plan.activations import MemoryCounter, find_step_memory, measure_step_memory
from lmft.analysis.plan.duration import count_work
from lmft.analysis.plan.estimate import (
    Memory,
    estimate_disk_space,
    estimate_memory,
    optimizer_bytes,
    tensor_bytes,
)
from lmft.analysis.plan.report import suggest_knobs
from lmft.model.state_dict import write_state
from lmft.optimizer import build_optimizer
from lmft.runs.run import Run
from lmft.trainer.components import build_components
from tests.helpers.processes import start
from tests.helpers.runs import compose

TINY = ["dataset.block_size=16", "trainer.batch_size=8", "hardware.device=cpu"]
ROOMY = 2**50  # bytes


@pytest.fixture
def opened(corpus, tmp_path):
    """The config and the components of a tiny run."""

    def open_it(*overrides, precision="fp32"):
        roots = [f"cache_root={tmp_path / 'cache'}", f"run_root={tmp_path / 'runs'}"]
        words = [*corpus, *TINY, f"hardware.precision={precision}", *roots, *overrides]
        run = Run(compose(*words))
        return run.config, build_components(run.config, run.splits)

    return open_it


def memory_of(config, components, processes=1):
    step = find_step_memory(config, components, processes, ROOMY)
    optimizer = optimizer_bytes(config, components.network)
    return estimate_memory(config, components, processes, step, 1000, optimizer)


def test_the_meter_counts_what_is_alive_at_once():
    with MemoryCounter(list) as meter:
        first = torch.ones(1000)  # of 4 bytes each
        second = first * 2
        del first
        view = second[:10]
        third = second + 1
        third += view.sum()
    assert meter.peak == meter.activations == 8000 + 4  # and a sum


def test_larger_micro_batches_raise_only_activations_and_temporary_tensors(opened):
    small, large = (memory_of(*opened(f"hardware.micro_batch_size={size}")) for size in (2, 4))
    for part in ("process", "weights", "gradients", "gathered", "optimizer", "allocator_overhead"):
        assert getattr(small, part) == getattr(large, part)
    assert small.activations < large.activations <= 2 * small.activations
    assert large.loss_chunk == 2 * small.loss_chunk > 0
    assert small.total < large.total == sum(vars(large).values())


def test_what_does_not_fit_is_estimated_and_never_too_low(opened):
    config, components = opened("hardware.micro_batch_size=4")
    measured = find_step_memory(config, components, 1, ROOMY)
    estimated = find_step_memory(config, components, 1, available=0)
    assert estimated.extrapolated and not measured.extrapolated
    assert estimated.micro_batch_size == measured.micro_batch_size == 4
    assert estimated.activations >= measured.activations and estimated.peak >= measured.peak
    twice = measure_step_memory(config, components, 8, 1)
    assert twice.peak <= 2 * measured.peak  # as what is safe to try rests on


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_optimizer_and_checkpoint_are_as_large_as_they_then_are(optimizer, opened, tmp_path):
    config, components = opened(f"optimizer={optimizer}")
    model = components.network.model
    real = build_optimizer(config.optimizer, model)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    real.step()
    state = [value for some in real.state.values() for value in some.values()]
    counted = optimizer_bytes(config, components.network)
    assert counted == tensor_bytes(iter(state))
    write_state(tmp_path, model, real)
    (file,) = tmp_path.glob("*.safetensors")
    planned = estimate_disk_space(config, components, counted).checkpoint
    assert planned == pytest.approx(file.stat().st_size, rel=0.02)


def test_two_processes_share_what_fsdp_shards(opened):
    alone = memory_of(*opened("hardware.micro_batch_size=4"))
    shared = memory_of(*opened("hardware.micro_batch_size=4", "hardware.strategy=fsdp"), 2)
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(shared, part) == getattr(alone, part) // 2
    assert shared.activations == pytest.approx(alone.activations, rel=0.02)
    assert shared.gathered > alone.gathered == 0
    copied = memory_of(*opened("hardware.micro_batch_size=4", "hardware.strategy=ddp"), 2)
    assert (copied.weights, copied.optimizer) == (alone.weights, alone.optimizer)
    assert copied.gradients == 2 * alone.gradients  # the second time in buckets


def test_a_low_precision_copy_takes_half_as_much_again(opened):
    fp32 = memory_of(*opened())
    bf16 = memory_of(*opened(precision="bf16"))
    assert 2 * bf16.gradients == 3 * fp32.gradients
    assert fp32.weights < bf16.weights <= 1.5 * fp32.weights
    assert bf16.optimizer == fp32.optimizer


def test_the_work_is_that_of_a_run(opened):
    config, components = opened("trainer.max_steps=5", "trainer.evaluate_every=2")
    work = count_work(config, components)
    assert (work.steps, work.evaluations) == (5, 4)  # before step 1, and after 2, 4 and 5
    tokens = {name: len(some.blocks.stream.ids) for name, some in components.batches.items()}
    windows = {name: -(-count // 16) for name, count in tokens.items()}
    assert work.windows == pytest.approx(4 * windows["validation"] + windows["test"], abs=5)


@pytest.mark.parametrize(
    ("room", "knobs"),
    {
        1000: ["hardware.micro_batch_size=5"],
        510: ["micro_batch_size=1", "checkpoint_activations=true", "block_size=8"],
        400: ["optimizer=adafactor", "hardware=fsdp"],
    }.items(),
)
def test_the_knob_fits_what_is_too_large(room, knobs):
    config = Run(compose(*TINY, "hardware.micro_batch_size=8")).config
    memory = Memory(100, 100, 100, 0, 200, 800, 0, 0, 0)
    found = suggest_knobs(config, memory, room, 8)
    assert all(knob in " ".join(found) for knob in knobs)


def test_plan_prints_everything_and_leaves_no_run_behind(command, corpus, tmp_path):
    before = {path.name for path in tmp_path.iterdir()}
    code, printed, complaint = command(" ".join(["plan", "cache_root=cache", *corpus, *TINY]))
    assert (code, complaint) == (0, "")
    for told in ("steps of 8 blocks", "weights", "gradients", "loss chunk", "a checkpoint", "free"):
        assert told in printed
    assert re.search(r"time about .* a step, .* a window scored", printed)
    assert {path.name for path in tmp_path.iterdir()} - before == {"cache"}


def differs_by(words, folder):
    """Plan and then train; returns the relative error of the planned memory."""
    words += " trainer.max_steps=2 evaluation.max_blocks=2 cache_root=cache hardware.device=cpu"
    log = folder / "plan.log"
    planned = start(f"plan {words}", folder, log)
    planned.join()
    run = start(words, folder, folder / "run.log")
    run.join()
    assert (planned.exitcode, run.exitcode) == (0, 0), log.read_text()
    told = re.search(r"peak +([\d,.]+)", log.read_text())[1]
    (result,) = folder.glob("runs/*/result.json")
    peak = json.loads(result.read_text())["timing"]["peak_memory_bytes"]
    return float(told.replace(",", "")) * 2**20 / peak - 1


def test_the_memory_is_what_a_run_then_takes(tmp_path):
    words = "tracker=none model.config={n_embd:384,n_layer:3} dataset.max_documents=10"
    words += " trainer.max_steps=4 evaluation.max_blocks=8"
    assert abs(differs_by(words, tmp_path)) < 0.15


@pytest.mark.soak  # a minute for each
@pytest.mark.parametrize("name", ["gpt2_tiny", "distilgpt2", "minilm"])
def test_the_memory_of_real_models_is_what_a_run_then_takes(name, shared, request, tmp_path):
    if name == "gpt2_tiny":
        words = "dataset=python_docs"
    else:
        folder = shared / "data" / "wikitext-2"
        words = f"dataset=text_files dataset.train={folder}/test.txt"
        words += f" dataset.validation={folder}/valid.txt"
    if name == "distilgpt2":
        model = shared / "models" / "distilgpt2-architecture"
        words += f" model=distilgpt2 model.name={model} model.from_scratch=true"
    elif name == "minilm":
        model = request.getfixturevalue("minilm")
        words += f" objective=mlm model=pretrained model.name={model}"
    assert abs(differs_by(words, tmp_path)) < 0.15
