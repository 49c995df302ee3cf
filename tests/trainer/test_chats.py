"""Runs on chats: what is learnt, and what is scored."""

import json

import numpy as np
import pytest

from lmft.dataset.token_stream import open_stream
from lmft.dataset.tokenizer import load_tokenizer
from lmft.runs.run import Run
from tests.helpers.chats import write_chats
from tests.helpers.runs import compose, read_metrics


@pytest.fixture(scope="module")
def chat_run(runs_of_module, stories):
    """A run of 100 steps on 200 chats, and its overrides."""
    fit, _ = runs_of_module
    write_chats(fit.root / "chats.jsonl")
    overrides = [
        "model=pretrained", f"model.name={stories}", "dataset=text_files",
        f"dataset.train={fit.root / 'chats.jsonl'}", "dataset.chat_template=chatml",
        "dataset.block_size=64", "trainer.batch_size=2", "trainer.max_steps=100",
        "trainer.evaluate_every=100", "optimizer.lr=3e-3",
    ]  # fmt: skip
    return fit(*overrides), overrides, fit


def test_100_steps_on_chats_bring_the_loss_down(chat_run):
    folder = chat_run[0]
    losses = [
        v for (_, name), v in sorted(read_metrics(folder).items()) if name == "validation/loss"
    ]
    assert losses[-1] < 0.5 * losses[0]


def test_only_completion_tokens_are_scored_and_the_label_says_so(chat_run, stories):
    folder, overrides, fit = chat_run
    result = json.loads((folder / "result.json").read_text())["validation"]
    assert "· per completion token ·" in result["label"]
    split = Run(compose(*overrides)).splits["validation"]
    tokenizer = load_tokenizer(str(stories), revision=None)
    stream = open_stream(split, tokenizer, "eos", fit.root / "cache")
    learnt = stream.read_learnt(0, len(stream.ids))
    assert result["targets"] == learnt[np.arange(len(learnt)) % 64 > 0].sum()
    assert 0 < result["bytes"] < stream.counts.bytes


def test_what_is_learnt_is_in_the_key_and_in_the_conditions(chat_run):
    folder, overrides, _ = chat_run
    fp32 = "hardware.precision=fp32"
    same, last = (
        Run(compose(*overrides, fp32, f"dataset.learn={word}")) for word in ("completion", "last")
    )
    assert folder.name.endswith(same.key[:10]) and last.key != same.key
    conditions = json.loads((folder / "result.json").read_text())["validation"]["conditions"]
    assert conditions["template"] and "learn" not in conditions
