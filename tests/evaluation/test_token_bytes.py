"""Bytes and words of tokens: those of the text, however it is measured."""

import json

import numpy as np
import pytest

from lmft.dataset import chunked_tokenize
from lmft.dataset.token_stream import open_stream
from lmft.dataset.tokenizer import load_tokenizer, train_tokenizer
from lmft.evaluation import token_bytes
from lmft.evaluation.token_bytes import lost_characters, measure_spans
from lmft.runs.run import Run
from tests.helpers.runs import compose


@pytest.mark.parametrize("separator", ["none", "eos", "model", '"\\n\\n"'])
@pytest.mark.parametrize("tokenizer", ["stories260k", "gpt2-tokenizer"])
def test_the_bytes_and_words_of_all_tokens_are_those_of_the_text(
    tokenizer, separator, shared, tmp_path
):

    lines = ["the café — naïve\n", "", "  two  words \n", "🙂 emoji 日本語\n", "end"]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    run = Run(compose("dataset=text_files", f"dataset.test={path}"))
    split = run.splits["test"]
    loaded = load_tokenizer(str(shared / "models" / tokenizer), None)
    separator = json.loads(separator) if separator.startswith('"') else separator
    stream = open_stream(split, loaded, separator, tmp_path)
    spans = measure_spans(split, loaded, separator, stream)
    ends = np.concatenate([[0], stream.ends])
    by_document = [int(spans.bytes[a:b].sum()) for a, b in zip(ends, ends[1:], strict=False)]
    assert int(spans.bytes.sum()) == sum(len(line.encode()) for line in lines)
    if separator != "\n\n":  # there a token may reach over the end of a document
        assert by_document == [len(line.encode()) for line in lines]
    assert int(spans.words.sum()) == sum(len(line.split()) for line in lines)


@pytest.mark.parametrize("tokenizer", ["stories260k", "gpt2-tokenizer"])
def test_bytes_and_words_that_are_measured_part_by_part_are_those_of_one_go(
    tokenizer, shared, tmp_path, monkeypatch
):
    path = tmp_path / "test.txt"
    path.write_text("the café — naïve\n\n  two  words 🙂\u2003日本語 " * 50 + "x" * 40)
    run = Run(compose("dataset=text_files", f"dataset.test={path}"))
    split = run.splits["test"]
    loaded = load_tokenizer(str(shared / "models" / tokenizer), None)
    stream = open_stream(split, loaded, "none", tmp_path)
    whole = measure_spans(split, loaded, "none", stream)
    assert int(whole.words.sum()) == len(path.read_text().split())
    monkeypatch.setattr(chunked_tokenize, "STRIDE", 512)
    monkeypatch.setattr(chunked_tokenize, "OVERLAP", 128)
    for size in (1, 7, 64):
        monkeypatch.setattr(token_bytes, "PART", size)
        parts = measure_spans(split, loaded, "none", stream)
        assert (parts.words == whole.words).all()
        assert (parts.bytes == whole.bytes).all()


def test_characters_that_a_tokenizer_loses_are_counted(minilm, tmp_path):
    path = tmp_path / "test.txt"
    path.write_text("ABCdefghij é")
    run = Run(compose("dataset=text_files", f"dataset.test={path}"))
    split = run.splits["test"]
    assert lost_characters(split, train_tokenizer(iter(["abc"]), 300)) == 0
    assert lost_characters(split, load_tokenizer(str(minilm), None)) == pytest.approx(4 / 11)
