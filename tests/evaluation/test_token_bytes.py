"""Bytes and words of tokens: those of the text, however it is measured."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lmft.dataset import chunked_tokenize
from lmft.dataset.token_stream import open_stream
from lmft.dataset.tokenizer import load_tokenizer, train_tokenizer
from lmft.evaluation import token_bytes
from lmft.evaluation.byte_shares import read_vocabulary
from lmft.evaluation.token_bytes import lost_characters, measure_spans
from lmft.runs.run import Run
from lmft.trainer.components import build_components
from lmft.trainer.evaluate import assess
from tests.helpers.runs import compose
from tests.helpers.training import score_split


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


def sentencepiece_bytes(tokens):
    pieces = [
        bytes([int(name[3:5], 16)])
        if re.fullmatch("<0x..>", name)
        else name.replace("▁", " ").encode()
        for name in tokens
    ]
    pieces[0] = pieces[0].removeprefix(b" ")  # the tokenizer puts it in front of the text
    return pieces


def byte_level_bytes(tokens):
    to_byte = {character: byte for byte, character in bytes_to_unicode().items()}
    return [bytes(to_byte[character] for character in name) for name in tokens]


def word_piece_bytes(tokens):
    names = (f" {name}" if not name.startswith("##") else name[2:] for name in tokens)
    return [name.encode() for name in ["".join(tokens[:1]), *list(names)[1:]]]


@pytest.fixture(scope="module")
def tokenizers_by_kind(shared, tmp_path_factory):
    """A tokenizer of each kind, and its tokens' bytes by name, counted by hand."""
    bpe = load_tokenizer(str(shared / "models" / "stories260k"), None)
    byte_level = load_tokenizer(str(shared / "models" / "gpt2-tokenizer"), None)
    normalized = load_tokenizer(str(shared / "models" / "gpt2-tokenizer"), None)
    normalized.backend_tokenizer.normalizer = normalizers.NFC()  # as Qwen has it
    fallback = [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    pieces = [("<unk>", 0.0), *fallback, *((piece, -2.0) for piece in ["▁", "▁ab", *"abc好é"])]
    unigram = Tokenizer(models.Unigram(pieces, 0, byte_fallback=True))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    words = Tokenizer(models.WordPiece({n: i for i, n in enumerate(WORD_PIECES)}, unk_token="好"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    kinds = {
        "bpe": (bpe.backend_tokenizer, sentencepiece_bytes),
        "unigram": (unigram, sentencepiece_bytes),
        "byte-level": (byte_level.backend_tokenizer, byte_level_bytes),
        "normalized": (normalized.backend_tokenizer, byte_level_bytes),
        "word pieces": (words, word_piece_bytes),
    }
    return {kind: (*of_kind, read_vocabulary(of_kind[0])) for kind, of_kind in kinds.items()}


WORD_PIECES = [*"abc好é🙂", *(f"##{name}" for name in "abc好é🙂")]


@pytest.mark.parametrize("kind", ["bpe", "unigram", "byte-level", "normalized", "word pieces"])
@given(words=st.lists(st.text("abc好é🙂\n日", min_size=1, max_size=6), min_size=1, max_size=12))
def test_each_byte_counts_where_its_token_is(kind, words, tokenizers_by_kind):
    backend, bytes_of, vocabulary = tokenizers_by_kind[kind]
    if kind == "word pieces":
        words = [word.replace("\n", "a").replace("日", "b") for word in words]
    text = " ".join(words)
    encoding = backend.encode(text, add_special_tokens=False)
    expected = bytes_of(encoding.tokens)
    assert b"".join(expected) == text.encode()
    for size, overlap in [(1 << 18, 1 << 12), (16, 8)]:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(chunked_tokenize, "STRIDE", size)
            patched.setattr(chunked_tokenize, "OVERLAP", overlap)
            found = np.zeros(len(encoding.ids), dtype=np.int32)
            ids = np.array(encoding.ids)
            token_bytes._measure_bytes(found, text, ids, vocabulary, backend)
        assert found.tolist() == [len(piece) for piece in expected]


def test_bits_per_byte_of_bytes_that_the_vocabulary_falls_back_to(stories, tmp_path):
    path = tmp_path / "test.txt"
    path.write_text("你好吗他们来了" * 300)
    run = Run(
        compose(
            "model=pretrained", f"model.name={stories}", "dataset=text_files", "hardware=cpu",
            f"dataset.test={path}", "dataset.separator=none", f"cache_root={tmp_path}",
            "evaluation.context=3", "evaluation.max_blocks=200", "hardware.precision=fp32",
        )
    )  # fmt: skip
    components = build_components(run.config, run.splits)
    result = assess(run, components, run.splits["test"], score_split(run, components)).result
    assert result.loss.targets == result.bytes == 400
