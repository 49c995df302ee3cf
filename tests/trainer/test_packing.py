"""Runs on whole documents: keys, targets, results, resuming and micro-batches."""

import json
import shlex

import numpy as np
import pytest

from lmft.dataset.tokenizer import load_tokenizer
from lmft.runs.run import Run
from lmft.trainer.components import open_batches
from lmft.trainer.evaluate import find_conditions
from tests.helpers.chats import write_chats
from tests.helpers.runs import BUSY, MODELS, compose, read_metrics, repeatable_metrics

LINES = ["dataset.packing=documents", "dataset.attention=document"]


@pytest.fixture(scope="module")
def whole_run(runs_of_module):
    """A run on whole documents, and its overrides."""
    fit, corpus = runs_of_module
    busy = [word for word in BUSY if not word.startswith("cache_root=")]  # which `fit` sets
    overrides = [*busy, *MODELS["clm"], *corpus, *LINES]
    return fit(*overrides), overrides


def test_a_run_on_documents_that_is_stopped_resumes_to_the_same_bits(whole_run, fit):
    folder, overrides = whole_run
    stopped = fit(*overrides, prune=lambda step, _: step == 6)
    assert not (stopped / "result.json").exists()
    assert fit(*overrides) == stopped and stopped.name == folder.name
    assert repeatable_metrics(stopped) == repeatable_metrics(folder)


def test_each_document_is_scored_alone_and_the_fill_is_logged(whole_run):
    folder, overrides = whole_run
    run = Run(compose(*overrides, "hardware.precision=fp32", f"cache_root={folder}"))
    tokenizer = load_tokenizer(str(folder / "checkpoint"), revision=None)
    train, validation = (
        open_batches(run.config, run.splits[name], tokenizer).blocks
        for name in ("train", "validation")
    )
    result = json.loads((folder / "result.json").read_text())["validation"]
    lengths = np.diff(validation.stream.ends, prepend=0)
    pieces = -(-lengths // 16)  # of documents that are longer than a block
    assert result["targets"] == (lengths - pieces)[lengths > 0].sum()
    assert "· each document alone ·" in result["label"]
    assert read_metrics(folder)[0, "dataset/fill"] == pytest.approx(train.fill)


@pytest.mark.parametrize("objective", ["clm", "mlm model=bert_tiny"])
def test_micro_batches_of_documents_give_the_same_steps(objective, corpus, command):
    line = shlex.join([*BUSY, *corpus, *LINES, "hardware.precision=fp32", "trainer.max_steps=2"])
    code, printed, complaint = command(f"verify batch {line} objective={objective}")
    assert (code, complaint) == (0, "") and "Equal to rounding: 2 steps" in printed


def test_knobs_of_blocks_count_only_where_they_differ_from_what_auto_means(
    corpus, tmp_path, stories
):
    write_chats(tmp_path / "chats.jsonl", 20)
    chats = [
        "dataset=text_files", f"dataset.train={tmp_path / 'chats.jsonl'}",
        "dataset.chat_template=chatml", "model=pretrained", f"model.name={stories}",
    ]  # fmt: skip
    stream = ["dataset.packing=stream", "dataset.attention=block"]
    documents = ["dataset.packing=documents", "dataset.attention=document"]
    tokenizer = load_tokenizer(str(stories), revision=None)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    for overrides, usual, other in ((corpus, stream, documents), (chats, documents, stream)):
        runs = [Run(compose(*overrides, *words)) for words in ([], usual, other)]
        auto, same, different = (run.key for run in runs)
        assert auto == same != different
        keys = {Run(compose(*overrides, word)).key for word in other}
        assert len(keys | {auto, different}) == 4
        conditions = [find_conditions(run, run.splits["validation"], tokenizer) for run in runs]
        assert conditions[0] == conditions[1] != conditions[2]
        alone = [condition.documents == "alone" for condition in conditions]
        assert alone == ([False, False, True] if overrides is corpus else [True, True, False])
    assert "documents" not in conditions[2].as_dict()
