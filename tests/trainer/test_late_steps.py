"""What a GPU needs: steps that wait for nothing, and are recorded one step late."""

import json
import subprocess
import sys

import pytest
import torch

from lmft.config.training_knobs import Precision, Strategy
from lmft.hardware.device import fastest_precision
from lmft.model.kernels.attention import replace_attention
from lmft.optimizer import build_optimizer, take_step, take_step_on_device
from lmft.trainer import loop
from tests.helpers.architectures import CAUSAL, MASKED, build_tiny
from tests.helpers.fake_device import CASES
from tests.helpers.nonfinite import RUN

# Operations of a steady step with two layers, on a device for which torch has no attention kernel:
# the products of its attention count one by one.
MOST_OPERATIONS = {
    "gpt2": 210,
    "gpt2 accumulated": 790,
    "llama": 395,
    "bert": 235,
}


def test_a_step_does_not_wait_for_the_device():
    words = [sys.executable, "-m", "tests.helpers.fake_device", *CASES]
    output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    steps = json.loads(output.splitlines()[-1])
    assert steps.keys() == MOST_OPERATIONS.keys()
    for case, (operations, waits) in steps.items():
        assert waits == {}, case
        assert operations["_fused_adamw_"] == 2  # with and without weight decay
        total = sum(operations.values())
        assert 0.8 * MOST_OPERATIONS[case] < total <= MOST_OPERATIONS[case], (case, total)


CLOCKS = ("train/tokens_per_second", "train/share_of_limit", "timing")


def files(folder):
    """What a run wrote, without clocks: points in their order, results and skipped steps."""
    points = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        point = json.loads(line)
        metrics = {k: v for k, v in point["metrics"].items() if k not in CLOCKS}
        points.append((point["step"], sorted(metrics.items())))
    path = folder / "result.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    skipped = {path.name: path.read_text() for path in folder.glob("nonfinite-*.json")}
    return points, {k: v for k, v in result.items() if k not in CLOCKS}, skipped


STOPPED = ["trainer.max_steps=25", "trainer.epochs=9"]  # once, after step 10, and resumed


@pytest.mark.parametrize(
    "words",
    [
        ["trainer.on_nonfinite=skip", *STOPPED],
        ["trainer.on_nonfinite=skip", "trainer.patience=1", "optimizer.lr=1.0", "trainer.epochs=9"],
        [],  # stops at the step that is not finite
    ],
    ids=["skip", "early-stop", "stop"],
)
def test_steps_that_are_recorded_late_write_the_same_files(words, ill, fit, tmp_path, monkeypatch):
    written = []
    for is_late in (False, True):
        monkeypatch.setattr(loop, "queues_work", lambda device, late=is_late: late)
        root = f"run_root={tmp_path / str(is_late)}"
        overrides = [*ill[0], *RUN, *words, "trainer.checkpoint_every=7", root]
        prune_once = [lambda step, folder: step == 10] if STOPPED[0] in words else []
        try:
            for prune in prune_once:
                fit(*overrides, prune=prune)
            fit(*overrides)
        except FloatingPointError as error:
            written.append(str(error).partition("; its batch")[0])
        (folder,) = (tmp_path / str(is_late)).glob("*-*")
        written.append(files(folder))
    half = len(written) // 2
    assert half == (1 if words else 2) and len(files(folder)[0]) > 5
    assert written[:half] == written[half:]


@pytest.mark.parametrize("finite", [True, False])
def test_a_step_on_the_device_is_that_of_the_host_or_none(finite):
    weights = []
    for on_device in (True, False):
        model = build_tiny("gpt2")
        optimizer = build_optimizer(lambda groups: torch.optim.AdamW(groups, fused=True), model)
        for number in range(3):
            torch.manual_seed(number)
            for weight in model.parameters():
                weight.grad = torch.randn_like(weight)
            if on_device:
                skip = torch.tensor(0.0 if finite or number != 1 else 1.0)
                take_step_on_device(optimizer, torch.tensor(2.5), skip)
            elif finite or number != 1:
                take_step(optimizer, [weight.grad for weight in model.parameters()], 2.5)
        weights.append([*model.parameters(), *(s["exp_avg"] for s in optimizer.state.values())])
        weights[-1] += [state["step"] for state in optimizer.state.values()]
    assert all(map(torch.equal, *weights))


LIMITED = {"mistral", "gemma3_text", "modernbert"}  # attention to a window of earlier tokens
EAGER = {"gemma2", "gpt_neo", "bloom", "gptj", "deberta-v2", "mpnet"}  # not by torch's kernels


@pytest.mark.parametrize("kind", [*CAUSAL, *MASKED])
def test_a_model_without_masks_computes_the_same(kind):
    model, ids = build_tiny(kind), 3 + torch.arange(2 * 40).view(2, 40) % 90
    expected = model(input_ids=ids).logits
    replace_attention(model)
    assert (model.config._attn_implementation == "lmft_unmasked") == (kind not in LIMITED | EAGER)
    assert torch.equal(model(input_ids=ids).logits, expected)
    if kind in CAUSAL and kind not in LIMITED | EAGER:  # with a cache of keys, too
        arguments = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 5}
        unmasked = model.generate(ids, do_sample=False, **arguments)
        model.set_attn_implementation("sdpa")
        assert torch.equal(model.generate(ids, do_sample=False, **arguments), unmasked)


def test_compiled_attention_is_causal_without_a_mask():
    model, calls = build_tiny("gpt2"), []

    def keep_calls(graph, inputs):
        calls.extend(n for n in graph.graph.nodes if "scaled_dot_product" in str(n.target))
        return graph.forward

    replace_attention(model)
    compiled = torch.compile(model.transformer, backend=keep_calls, fullgraph=True)
    compiled(input_ids=torch.arange(12)[None], use_cache=False)
    assert len(calls) == 2
    assert all(call.kwargs["is_causal"] and call.kwargs["attn_mask"] is None for call in calls)


def test_fp16_stands_in_for_bf16_on_nvidia_gpus_alone():
    if torch.cuda.is_available():
        pytest.skip("states what holds without bf16")
    cuda = torch.device("cuda")
    assert fastest_precision(cuda, Strategy.none) is Precision.fp16
    assert fastest_precision(cuda, Strategy.fsdp) is Precision.fp32  # it has no loss scaling
    assert fastest_precision(torch.device("mps"), Strategy.none) is Precision.fp32
