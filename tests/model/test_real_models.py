"""Larger real models, where LMFT_MODELS has them (shared/assets/build_models.py builds them)."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lmft.runs.run import Run
from lmft.trainer.components import build_components
from lmft.trainer.evaluate import assess
from tests.helpers.runs import compose
from tests.helpers.training import score_split


def score_start(text, smollm2, folder):
    """The first 8 blocks of `text`: their scores, the components, and the result."""
    local = folder / "test.txt"
    local.write_text(text.read_text()[:40_000])  # more than 8 blocks
    run = Run(
        compose(
            "model=pretrained", f"model.name={smollm2}", "dataset=text_files", "hardware=cpu",
            f"dataset.test={local}", "dataset.separator=none", "hardware.precision=fp32",
            f"cache_root={folder}", "dataset.block_size=512", "evaluation.max_blocks=8",
        )
    )  # fmt: skip
    components = build_components(run.config, run.splits)
    scores = score_split(run, components)
    return scores, components, assess(run, components, run.splits["test"], scores).result


@pytest.fixture(scope="module")
def words(smollm2, wikitext, tmp_path_factory):
    return score_start(wikitext / "test.txt", smollm2, tmp_path_factory.mktemp("words"))


def test_a_pretrained_model_scores_as_plain_transformers_does(words, smollm2):
    ours, components, _ = words
    theirs = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    blocks = components.batches["test"].blocks.read(np.array([1]))
    with torch.no_grad():
        logits = theirs(blocks).logits[:, :-1].double()
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), blocks[:, 1:].flatten())
    assert ours.nats[511 : 2 * 511].mean() == pytest.approx(float(nats), rel=1e-4)


@pytest.mark.soak  # minutes on two cores
def test_a_masked_model_with_a_new_head_learns_in_60_steps(minilm, wikitext, fit):
    folder = fit(
        "model=pretrained", f"model.name={minilm}", "objective=mlm", "dataset=text_files",
        f"dataset.train={wikitext / 'train.txt'}", f"dataset.validation={wikitext / 'valid.txt'}",
        "trainer.max_steps=60", "optimizer.lr=5e-4", "evaluation.max_blocks=40",
    )  # fmt: skip
    found = json.loads((folder / "result.json").read_text())
    assert found["baseline"]["loss"] == pytest.approx(10.7, abs=0.4)
    assert found["validation"]["loss"] < 8


def test_the_first_4096_tokens_have_the_perplexity_measured_elsewhere(words):
    check_perplexity(words[2], 27.61)


@pytest.mark.soak  # the same of another text
def test_the_first_4096_raw_tokens_have_the_perplexity_measured_elsewhere(
    smollm2, shared, tmp_path
):
    raw = shared / "data" / "wikitext-2-raw" / "wiki.test.raw"
    check_perplexity(score_start(raw, smollm2, tmp_path)[2], 30.36)


def check_perplexity(result, expected):
    assert result.loss.targets == 8 * 511
    assert result.loss.perplexity == pytest.approx(expected, abs=0.01)
    assert result.unit == "block"
