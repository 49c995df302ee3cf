"""A step that is not finite: the run stops with its reason, or skips the step."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from lmft.config.training_knobs import Precision
from lmft.dataset.tokenizer import train_tokenizer
from lmft.hardware.device import Hardware
from lmft.model.mixed_precision import build_network
from lmft.objective import Batch
from lmft.runs.run import Run
from lmft.runs.run_id import key_inputs
from lmft.tracker.run_log import read_values
from lmft.trainer.checkpoint import Checkpoints
from lmft.trainer.gradients import DropoutSeeds, LossScale, compute_gradients
from tests.helpers.nonfinite import RARE, RUN, saved, small_gpt2
from tests.helpers.processes import start
from tests.helpers.runs import compose


def bad_steps(folder):
    return {int(path.stem.rpartition("-")[2]): json.loads(path.read_text())
            for path in folder.glob("nonfinite-*.json")}  # fmt: skip


def test_a_step_that_is_not_finite_fails_the_run_and_is_saved(ill, fit, tmp_path, store, command):
    words = [*ill[0], *RUN, *store.overrides, f"cache_root={tmp_path / 'cache'}", "hardware=cpu"]
    code, _, complaint = command(" ".join(words))
    (folder,) = (tmp_path / "runs").glob("*-*")
    ((step, facts),) = bad_steps(folder).items()
    assert code == 1 and complaint.startswith(f"lmft: At step {step} the loss is nan, the learning")
    assert "trainer.on_nonfinite=skip" in complaint and "optimizer.lr" in complaint
    assert f"its batch is in {folder}/nonfinite-{step}.json.\n" in complaint
    assert store.run_of(folder).info.status == "FAILED"
    assert facts["loss"] == "nan" and facts["grad_norm"] == "nan" and facts["learning_rate"] > 0
    rare = ill[1](RARE)["input_ids"][1]
    assert [rare in row for row in facts["inputs"]].count(True) == 1 == len(facts["blocks"]) - 1
    assert facts["dropout_seeds"] == [DropoutSeeds(0, step).of(0)]
    assert dict(read_values(folder, "train/loss")).keys() == set(range(1, step))


def test_a_skipped_step_leaves_weights_and_optimizer_as_they_were(ill, fit):
    kept = {}

    def keep(step, folder):
        """Keep the tensors of all checkpoints; never prunes."""
        for path in folder.glob("checkpoints/step-*/state.safetensors"):
            kept[int(path.parent.name[5:])] = load_file(path)
        return False

    words = [*ill[0], *RUN, "trainer.on_nonfinite=skip", "trainer.evaluate_every=1"]
    folder = fit(*words, prune=keep)
    ((step, facts),) = bad_steps(folder).items()
    before, after = kept[step - 1], kept[step]
    assert before.keys() == after.keys() and len(before) > 20
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(not torch.equal(kept[step + 1][name], after[name]) for name in after)
    result = json.loads((folder / "result.json").read_text())
    assert result["skipped_steps"] == 1 and math.isfinite(result["final"]["loss"])
    assert dict(read_values(folder, "train/skipped_steps")) == {step: 1}
    assert dict(read_values(folder, "train/loss")).keys() == set(range(1, result["steps"] + 1)) - {
        step
    }


def test_a_resumed_run_keeps_its_count_of_skipped_steps(ill, fit, tmp_path):
    words = [*ill[0], *RUN, "trainer.on_nonfinite=skip", "trainer.max_steps=40", "trainer.epochs=9"]
    stopped = fit(*words, prune=lambda step, folder: step == 20)
    progress = Checkpoints(stopped / "checkpoints").newest().progress
    assert progress["skipped_steps"] == len(bad_steps(stopped)) > 0
    folder = fit(*words)
    result = json.loads((folder / "result.json").read_text())
    assert result["skipped_steps"] == len(bad_steps(folder)) > progress["skipped_steps"]


@pytest.mark.soak
def test_two_processes_skip_the_step_that_one_would(ill, fit, tmp_path):
    words = [*ill[0], *RUN, "trainer.on_nonfinite=skip", "model.dropout=0"]
    alone = fit(*words)
    code, said, folder = run_in_two(words, tmp_path)
    assert code == 0, said
    assert bad_steps(folder).keys() == bad_steps(alone).keys() and len(bad_steps(alone)) == 1
    assert dict(read_values(folder, "train/skipped_steps")) == dict(
        read_values(alone, "train/skipped_steps")
    )
    for key in ("train/loss", "validation/loss"):
        assert dict(read_values(folder, key)) == pytest.approx(
            dict(read_values(alone, key)), rel=1e-5
        )


@pytest.mark.soak
def test_two_processes_stop_at_a_step_that_is_not_finite_with_one_sentence(ill, tmp_path):
    code, said, folder = run_in_two([*ill[0], *RUN], tmp_path)
    (step,) = bad_steps(folder)
    assert code == 1 and "Traceback" not in said
    assert said.count("lmft: At step") == said.count(f"At step {step} the loss is nan") == 1
    assert not (folder / "result.json").exists()


def run_in_two(words, tmp_path):
    """Exit code, output and folder of a run that two processes share."""
    process_group = "hardware=ddp hardware.processes=2 hardware.device=cpu hardware.precision=fp32"
    line = f"{' '.join(words)} {process_group} tracker=none cache_root=cache run_root=shared"
    process = start(line, tmp_path, tmp_path / "log")
    process.join(300)
    (folder,) = tmp_path.glob("shared/*-*")
    return process.exitcode, (tmp_path / "log").read_text(), folder


def test_a_finite_loss_with_an_infinite_gradient_is_no_step(corpus, fit, tmp_path):
    tokenizer = train_tokenizer(iter(["the cat sat on a mat"]), 300)
    model = small_gpt2(tokenizer)
    with torch.no_grad():
        model.lm_head.weight *= 1e24
    words = [*corpus, *RUN, *saved(model, tokenizer, tmp_path / "steep")]
    with pytest.raises(FloatingPointError, match=r"the loss is \d.*the gradient norm inf"):
        fit(*words)


def test_skipping_ends_after_20_steps_in_a_row(corpus, fit, tmp_path):
    tokenizer = train_tokenizer(iter(["the cat sat on a mat"]), 300)
    model = small_gpt2(tokenizer)
    with torch.no_grad():
        model.lm_head.weight *= 1e24
    words = [*corpus, *RUN, *saved(model, tokenizer, tmp_path / "steep"), "trainer.epochs=99",
             "trainer.on_nonfinite=skip", "trainer.evaluate_every=100"]  # fmt: skip
    with pytest.raises(FloatingPointError, match="20 steps in a row up to step 20 were skipped"):
        fit(*words)
    (folder,) = (tmp_path / "runs").glob("*-*")
    assert bad_steps(folder).keys() == set(range(1, 21))


def test_a_step_that_no_loss_scale_fixes_leaves_the_scale_unchanged():
    tokenizer = train_tokenizer(iter(["the cat sat on a mat"]), 300)
    model = small_gpt2(tokenizer)
    with torch.no_grad():
        model.transformer.wte.weight[7] = 1e38
    hardware = Hardware(torch.device("cpu"), Precision.fp16, 2, False, False)
    network, scale = build_network(model, hardware), LossScale(None)
    seeds = DropoutSeeds(seed=0, step=1)
    before = None
    for token, finite in ((9, True), (7, False)):
        blocks = torch.full((2, 8), token)
        loss, norm = compute_gradients(network, [Batch(blocks, blocks)], hardware, seeds, scale)
        assert math.isfinite(norm) is finite
        before = scale.value if finite else before
        network.model.zero_grad()
    assert scale.value == before


def test_only_what_changes_numbers_changes_the_key(corpus):

    def key(*overrides):
        run = Run(compose(*corpus, *overrides))
        hashed = key_inputs(run.config.model, run.values, run.splits)["trainer"]
        assert ("on_nonfinite" in hashed) is bool(overrides)
        return run.key

    assert key() != key("trainer.on_nonfinite=skip")
