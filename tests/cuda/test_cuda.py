"""On a CUDA GPU: the numbers of a CPU, the same bits each time, and what a GPU alone has.

`make test-cuda` runs this file in three minutes; LMFT_TEST_DEVICE=cpu tries it on a CPU.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from itertools import islice

import pytest
import torch

from lmft.runs.run import Run
from lmft.trainer.components import build_components
from lmft.trainer.step import read_late, take_steps
from lmft.trainer.training import start_training
from tests.helpers.runs import compose, read_metrics, repeatable_metrics

DEVICE = os.environ.get("LMFT_TEST_DEVICE", "cuda")
ON_GPU = DEVICE == "cuda"
if ON_GPU and not torch.cuda.is_available():
    pytest.skip("torch finds no CUDA GPU", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of the insides of its compiler
only_on_gpu = pytest.mark.skipif(not ON_GPU, reason="states what holds on a GPU alone")

BLOCK = 1024 if ON_GPU else 32  # long enough that a row's attention is summed in several parts
HARDWARE = [f"hardware={DEVICE}", "tracker=none", "evaluation.max_blocks=4"]


@pytest.fixture
def story_words(stories, real_text):
    """A real model of 260,032 weights on real text, in file order and without dropout."""
    sizes = ["dataset.block_size=128", "trainer.batch_size=8", "hardware.micro_batch_size=8"]
    more = ["optimizer.lr=5e-4", "trainer.shuffle=false", "trainer.epochs=9"]
    return ["model=pretrained", f"model.name={stories}", *real_text, *sizes, *more]


@pytest.fixture
def gpt2_words(shared, real_text):
    """distilgpt2's architecture with its dropout, in bf16."""
    model = f"model.name={shared / 'models/distilgpt2-architecture'}"
    layers = [] if ON_GPU else ["model.config={n_layer: 1, n_embd: 48}"]
    sizes = [f"dataset.block_size={BLOCK}", "trainer.batch_size=4", "trainer.epochs=9"]
    precision = "hardware.precision=bf16"
    return ["model=pretrained", model, "model.from_scratch=true", *layers, *real_text, *sizes,
            precision, *HARDWARE]  # fmt: skip


def losses(folder):
    return [value for (_, name), value in read_metrics(folder).items() if name == "train/loss"]


def training_of(words, tmp_path):
    run = Run(compose(*words, f"cache_root={tmp_path}", "trainer.max_steps=1000"))
    return start_training(run.config, build_components(run.config, {"train": run.splits["train"]}))


def weights_after(training, steps):
    taken = [s.loss.nats for s in islice(read_late(training, take_steps(training)), steps)]
    return taken, [w.detach().clone() for w in training.components.network.model.parameters()]


def is_equal(one, other):
    return one[0] == other[0] and all(map(torch.equal, one[1], other[1]))


@pytest.mark.parametrize("precision, close", [("fp32", 1e-5), ("bf16", 5e-3), ("fp16", 2e-3)])
def test_losses_are_those_of_a_cpu(precision, close, story_words, fit):
    words = [*story_words, "trainer.max_steps=20", "evaluation.max_blocks=4"]
    expected = losses(fit(*words))
    found = losses(fit(*words, *HARDWARE, f"hardware.precision={precision}", "fresh=true"))
    assert len(found) == 20 and found == pytest.approx(expected, rel=close)


def test_masked_losses_are_those_of_a_cpu(corpus, fit):
    words = [*corpus, "objective=mlm", "model=bert_tiny", "model.dropout=0", "trainer.max_steps=20",
             "trainer.epochs=99"]  # fmt: skip
    expected = losses(fit(*words))
    assert losses(fit(*words, *HARDWARE, "fresh=true")) == pytest.approx(expected, rel=1e-5)


def test_the_same_command_twice_gives_the_same_bits(gpt2_words, fit, tmp_path):
    first, second = (
        fit(*gpt2_words, "trainer.max_steps=12", f"run_root={tmp_path / name}") for name in "ab"
    )
    assert repeatable_metrics(first) == repeatable_metrics(second)
    files = [(folder / "checkpoint/model.safetensors").read_bytes() for folder in (first, second)]
    assert files[0] == files[1]


def test_a_graph_computes_what_its_operations_compute(gpt2_words, tmp_path):
    as_graph = training_of(gpt2_words, tmp_path)
    by_graph = weights_after(as_graph, 8)
    recorded = as_graph.graphs
    by_operation = weights_after(replace(training_of(gpt2_words, tmp_path), graphs=None), 8)
    assert is_equal(by_graph, by_operation)
    assert not ON_GPU or len(recorded._graphs._recordings) == 1


@only_on_gpu
def test_memory_does_not_grow_with_steps(gpt2_words, tmp_path):
    training, used = training_of(gpt2_words, tmp_path), []
    for number, _ in zip(range(12), take_steps(training), strict=False):
        if number >= 4:
            used.append(torch.cuda.memory_allocated())
    assert max(used) - min(used) < 2**20


@only_on_gpu
def test_a_step_that_reads_a_number_is_not_recorded_but_taken(gpt2_words, tmp_path):
    training = training_of(gpt2_words, tmp_path)
    model = training.components.network.compute_model
    model.transformer.h[0].register_forward_hook(lambda *call: float(call[2][0].sum()) and None)
    assert len(weights_after(training, 6)[0]) == 6
    assert not training.graphs._graphs._recordings


def test_a_resumed_run_ends_with_the_same_bits(gpt2_words, fit, tmp_path):
    words = [*gpt2_words, "trainer.max_steps=12", "trainer.evaluate_every=4"]
    straight = fit(*words, f"run_root={tmp_path / 'straight'}")
    fit(*words, prune=lambda step, folder: step == 8)
    resumed = fit(*words)
    assert "resuming from step 8" in (resumed / "run.log").read_text()
    assert repeatable_metrics(resumed) == repeatable_metrics(straight)
    files = [f / "checkpoint/model.safetensors" for f in (straight, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_compiled_layers_have_the_losses_of_others(gpt2_words, fit, tmp_path):
    words = [*gpt2_words, "trainer.max_steps=10", "model.dropout=0"]
    plain = losses(fit(*words, f"run_root={tmp_path / 'plain'}"))
    compiled = losses(fit(*words, "hardware.compile=true"))
    assert compiled == pytest.approx(plain, rel=5e-3)


@only_on_gpu
def test_out_of_memory_halves_the_micro_batch(gpt2_words, fit):
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(3.5e9 / total)
    try:
        folder = fit(*gpt2_words, "trainer.batch_size=32", "trainer.max_steps=4")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    sizes = json.loads((folder / "micro_batch.json").read_text())
    assert set(sizes) == {"1"} and 1 <= sizes["1"] <= 16
    assert len(losses(folder)) == 4


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_of_a_group_has_the_losses_of_a_run(strategy, story_words, fit, tmp_path):
    words = [*story_words, "trainer.max_steps=6", *HARDWARE, "hardware.precision=fp32"]
    alone = losses(fit(*words))
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "1", "-m", "lmft"]
    words += [f"hardware={strategy}", f"hardware.device={DEVICE}", f"run_root={tmp_path / 'group'}"]
    words.remove(f"hardware={DEVICE}")
    run_command(*words, f"cache_root={tmp_path}", launcher=launcher, cwd=tmp_path)
    (folder,) = (tmp_path / "group").glob("*-*")
    assert losses(folder) == pytest.approx(alone, rel=1e-5)


def test_plan_foretells_memory_and_time(gpt2_words, command, fit, tmp_path):
    words = [*gpt2_words, "trainer.max_steps=60", f"cache_root={tmp_path / 'cache'}"]
    code, printed, errors = command(shlex.join(["plan", *words]))
    assert code == 0, errors
    step = float(re.search(r"([\d.,]+) ms a step", printed)[1].replace(",", ""))
    peak = float(re.search(r"peak +([\d,.]+)", printed)[1].replace(",", "")) * 2**20
    folder = fit(*words)
    times = [json.loads(line)["time"] for line in (folder / "metrics.jsonl").open()]
    taken = (times[-5] - times[10]) / (len(times) - 15)
    if ON_GPU:
        timing = json.loads((folder / "result.json").read_text())["timing"]
        held = timing["peak_device_memory_bytes"]
        assert 0.75 * held < peak < 1.25 * held + 1e9  # the context holds about 0.5 GB
        assert step == pytest.approx(taken, rel=0.25)


def test_profile_shows_where_the_time_of_a_step_goes(gpt2_words, command, tmp_path):
    code, printed, errors = command(
        shlex.join(["profile", *gpt2_words, f"cache_root={tmp_path}", "steps=5"])
    )
    assert code == 0, errors
    assert "matrix products" in printed
    if ON_GPU:
        idle, kernels = re.search(
            r"idle for (\d+) % of a step, whose ([\d,]+) kernels", printed
        ).groups()
        assert int(idle) < 30 and int(kernels.replace(",", "")) > 100


def run_command(*words, launcher=("-m", "lmft"), cwd):
    command = [sys.executable, *launcher, *words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with suppress(KeyError):
        del environment["OMP_NUM_THREADS"]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=150
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout
