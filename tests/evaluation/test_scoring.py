"""Scoring: the same nats as a reference, in every batch size."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lmft.evaluation.windows import windows_of
from lmft.runs.run import Run
from lmft.trainer.components import build_components
from lmft.trainer.evaluate import assess
from tests.helpers.runs import compose
from tests.helpers.training import score_split


def open_evaluation(*overrides):
    run = Run(compose("hardware=cpu", "hardware.precision=fp32", *overrides))
    return run, build_components(run.config, {"test": run.splits["test"]})


def test_nats_are_those_of_a_float64_reference(scored, stories):
    run, components = open_evaluation(*scored)
    found = score_split(run, components)
    ids = torch.from_numpy(np.array(components.batches["test"].blocks.stream.ids, dtype=np.int64))
    model = AutoModelForCausalLM.from_pretrained(stories, dtype=torch.float64).eval()
    nats = []
    for block in ids.split(64):
        with torch.no_grad():
            logits = model(block[None]).logits[0, :-1]
        nats += torch.nn.functional.cross_entropy(logits, block[1:], reduction="none").tolist()
    assert found.nats == pytest.approx(np.array(nats), rel=1e-4, abs=1e-5)
    assert found.loss.nats == pytest.approx(sum(nats), rel=1e-6)


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_how_many_windows_go_together_changes_nothing(objective, scored, masked_run):
    if objective == "mlm":
        scored = [*scored, "objective=mlm", f"model.name={masked_run / 'checkpoint'}"]
    run, components = open_evaluation(*scored)
    losses = {}
    for size in (1, 3, 8, 1000):
        hardware = replace(components.hardware, micro_batch_size=size)
        losses[size] = score_split(run, replace(components, hardware=hardware))
    for size in (1, 3, 8):
        assert losses[size].loss.mean == pytest.approx(losses[1000].loss.mean, rel=1e-6)
        assert np.array_equal(losses[size].positions, losses[1000].positions)  # the same masks


def test_stride_1_scores_each_token_with_its_whole_context(scored, stories):
    run, components = open_evaluation(
        *scored, "evaluation.stride=1", "evaluation.context=16", "evaluation.max_blocks=40"
    )
    found = score_split(run, components)
    ids = torch.from_numpy(np.array(components.batches["test"].blocks.stream.ids, dtype=np.int64))
    model = AutoModelForCausalLM.from_pretrained(stories).eval()
    assert found.positions.tolist() == list(range(1, 16 + 39))
    for position, nats in zip(found.positions, found.nats, strict=True):
        window = ids[max(0, position - 15) : position + 1]
        with torch.no_grad():
            logits = model(window[None]).logits[0, -2]
        expected = torch.nn.functional.cross_entropy(logits, window[-1])
        assert nats == pytest.approx(float(expected), rel=1e-4, abs=1e-5)


def test_wikitext_rows_are_resampled_by_article(wikitext, stories, tmp_path):
    path = tmp_path / "test.parquet"
    path.write_bytes((wikitext / "parquet" / "test.parquet").read_bytes())
    run = Run(compose("dataset=text_files", f"dataset.test={path}", "dataset.document=row"))
    split = run.splits["test"]
    rule = replace(split.source.parts(split.where)[0], rule="article")
    by_row = replace(split, source=Fixed(split.source, rule))
    units = by_row.units()
    assert len(units) == 4358 and units.max() == 59 and (np.diff(units) >= 0).all()


class Fixed:
    """A source whose rows make articles, as those of the hub's WikiText do."""

    def __init__(self, source, part):
        self.source, self.part = source, part

    def parts(self, where):
        return [self.part]

    def digest(self, where):
        return self.source.digest(where)


def test_frozen_masks_are_the_ones_they_always_were(masked_run, corpus, tmp_path):
    overrides = [*corpus, "model=bert_tiny", "objective=mlm", f"cache_root={tmp_path / 'cache'}"]
    overrides += [f"model.name={masked_run / 'checkpoint'}", "model.from_scratch=false"]
    overrides += ["model.tokenizer=null", "model.architecture=null"]
    run, components = open_evaluation(*overrides)
    found = score_split(run, components)
    assert len(windows_of(components.batches["test"], run.config.evaluation)) == 1
    masks = hashlib.sha256(found.positions.astype("<i8").tobytes()).hexdigest()
    assert masks[:16] == "b49ad5699f35c225"
    result = assess(run, components, run.splits["test"], found).result
    assert "15% hidden" in result.label
