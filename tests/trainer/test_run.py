"""Whole runs, on tiny models and real text."""

import itertools
import json
import re
import time

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmft.runs.run import Run
from tests.helpers.runs import compose

TINY = ["dataset.block_size=16", "trainer.epochs=2", "model.dropout=0"]


def result(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_a_run_learns_and_leaves_its_best_weights(objective, fit, corpus):
    model = {"clm": "gpt2_tiny", "mlm": "bert_tiny"}[objective]
    folder = fit(*corpus, *TINY, f"objective={objective}", f"model={model}", "trainer.epochs=15")
    found = result(folder)
    assert found["baseline"]["perplexity"] == pytest.approx(300, rel=0.25)  # it knows nothing
    assert found["validation"]["perplexity"] < 0.5 * found["baseline"]["perplexity"]
    assert found["test"]["perplexity"] < 0.5 * found["baseline"]["perplexity"]
    assert (folder / "checkpoint" / "model.safetensors").exists()
    assert (folder / "run.log").read_text()


def test_the_same_run_again_gives_the_same_numbers_to_the_last_bit(fit, corpus, tmp_path):
    overrides = [*corpus, *TINY, "model.dropout=0.1"]
    first = fit(*overrides)
    found = result(first)
    first.rename(tmp_path / "first")
    again = result(fit(*overrides))
    assert {**found, "timing": None} == {**again, "timing": None}


def test_the_checkpoint_is_the_best_one_and_loads_with_transformers(fit, corpus):
    folder = fit(*corpus, *TINY, "optimizer.lr=0.05", "trainer.evaluate_every=1")
    found = result(folder)
    assert 0 < found["best_step"] <= found["steps"]
    model = AutoModelForCausalLM.from_pretrained(folder / "checkpoint").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "checkpoint")
    text = (folder.parents[1] / "validation.txt").read_text().splitlines(keepends=True)
    ids = [tokenizer(line, add_special_tokens=False)["input_ids"] for line in text]
    stream = [token for line in ids for token in [*line, tokenizer.eos_token_id]][:-1]
    nats = targets = 0
    for start in range(0, len(stream), 16):
        block = torch.tensor([stream[start : start + 16]])
        if block.shape[1] > 1:
            with torch.no_grad():
                logits = model(block).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, block[0, 1:], reduction="sum")
            nats, targets = nats + float(loss), targets + block.shape[1] - 1
    assert found["validation"]["targets"] == targets
    assert found["validation"]["nats"] == pytest.approx(nats, rel=1e-5)


def test_patience_ends_a_run_that_no_longer_improves(fit, corpus):
    folder = fit(
        *corpus,
        *TINY,
        "optimizer.lr=0.5",
        "trainer.epochs=50",
        "trainer.evaluate_every=1",
        "trainer.patience=2",
        "trainer.schedule=constant",
    )
    found = result(folder)
    assert found["steps"] == found["best_step"] + 2


def test_real_weights_learn_real_text(fit, stories, real_text):
    folder = fit(
        *real_text,
        "model=pretrained",
        f"model.name={stories}",
        "dataset.block_size=64",
        "trainer.max_steps=30",
        "optimizer.lr=1e-3",
        "evaluation.max_blocks=20",
    )
    found = result(folder)
    assert found["validation"]["perplexity"] < 0.8 * found["baseline"]["perplexity"]


def test_what_a_run_does_not_depend_on_is_not_in_its_name(fit, corpus):

    def name(*overrides):
        return Run(compose(*corpus, *overrides)).folder.name

    assert name() == name("hardware.micro_batch_size=2", "tracker=none", "debug=true")
    names = [name(), name("seed=1"), name("optimizer.lr=1"), name("dataset.separator=none")]
    names += [name("model.config={n_layer: 1}"), name("hardware.precision=fp32")]
    assert len(set(names)) == len(names)


def test_a_clock_that_jumps_changes_nothing_but_timestamps(
    fit, store, corpus, tmp_path, monkeypatch
):
    overrides = [*corpus, *TINY, *store.overrides]
    straight = result(fit(*overrides).rename(tmp_path / "straight"))
    days = itertools.cycle(day * 86_400 for day in (0, 3, -2, 400))  # more than checkpoint_minutes
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() + next(days))
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + next(days) * 10**9)
    started = time.monotonic()
    folder = fit(*overrides)
    lasted = time.monotonic() - started
    monkeypatch.undo()
    jumped = result(folder)
    assert {**jumped, "timing": None} == {**straight, "timing": None}
    assert 0 < jumped["timing"]["seconds"] <= lasted
    speeds = [some["timing"]["tokens_per_second"] for some in (straight, jumped)]
    assert 0.1 < speeds[0] / speeds[1] < 10
    assert "checkpoint at step" not in (folder / "run.log").read_text()
    steps = sorted(store.points(folder, "train/loss"))  # MLflow orders by timestamp
    assert steps == list(range(1, jumped["steps"] + 1))
    assert store.run_of(folder).info.status == "FINISHED"


@pytest.mark.parametrize(
    "documents, limit, warned",
    [
        (9, "null", "Only 1 document is held out .* raise dataset.validation_fraction,"),
        (120, "null", ""),
        (120, "2", "Only 2 documents are held out .* raise dataset.max_documents,"),
    ],
)
def test_a_handful_of_held_out_documents_is_reported(
    documents, limit, warned, fit, tmp_path, caplog
):
    (tmp_path / "notes.txt").write_text("the cat sat on a mat\n" * documents)
    words = ["dataset=text_files", f"dataset.train={tmp_path}/notes.txt", "dataset.document=line"]
    words += [f"dataset.max_documents={limit}", "dataset.block_size=16"]
    fit(*words, "trainer.max_steps=1", "model.vocab_size=261")
    assert ("held out" in caplog.text) == bool(warned) and re.search(warned, caplog.text)
