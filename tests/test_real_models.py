"""Larger real models, where LMFT_MODELS has them (shared/assets/build_models.py builds them)."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lmft.assessment import assess, score
from lmft.config import read_config
from lmft.dataset import open_splits
from lmft.materials import gather
from tests.conftest import compose


def test_a_pretrained_model_scores_as_plain_transformers_does(smollm2, wikitext, tmp_path):
    config, _ = read_config(
        compose(
            "model=pretrained",
            f"model.name={smollm2}",
            "dataset=text_files",
            "hardware=cpu",
            f"dataset.test={wikitext / 'test.txt'}",
            "dataset.separator=none",
            "hardware.precision=fp32",
            f"cache_root={tmp_path}",
            "dataset.block_size=512",
            "evaluation.max_blocks=2",
        )  # fmt: skip
    )
    materials = gather(config, open_splits(config.dataset))
    ours = score("test", config, materials).loss
    theirs = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    blocks = materials.batches["test"].blocks.read(np.arange(2))
    with torch.no_grad():
        logits = theirs(blocks).logits[:, :-1].double()
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), blocks[:, 1:].flatten())
    assert ours.mean == pytest.approx(float(nats), rel=1e-4)


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


@pytest.mark.parametrize(("text", "perplexity"), [("words", 27.61), ("raw", 30.36)])
def test_the_first_4096_tokens_have_the_perplexity_measured_elsewhere(
    text, perplexity, smollm2, shared, tmp_path
):
    path = {"words": "wikitext-2/test.txt", "raw": "wikitext-2-raw/wiki.test.raw"}[text]
    local = tmp_path / "test.txt"
    local.write_bytes((shared / "data" / path).read_bytes())
    config, values = read_config(
        compose(
            "model=pretrained", f"model.name={smollm2}", "dataset=text_files", "hardware=cpu",
            f"dataset.test={local}", "dataset.separator=none", "hardware.precision=fp32",
            f"cache_root={tmp_path}", "dataset.block_size=512", "evaluation.max_blocks=8",
        )
    )  # fmt: skip
    splits = open_splits(config.dataset)
    materials = gather(config, splits)
    found = assess(splits["test"], score("test", config, materials), config, values, materials)
    assert found.result.loss.targets == 8 * 511
    assert found.result.loss.perplexity == pytest.approx(perplexity, abs=0.01)
    assert found.result.unit == "block"
