"""The token stream, for any tokenizer, separator and text."""

import json
import logging
import os
import time
from threading import Timer

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import ByteLevel, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import AddedToken, ByT5Tokenizer, PreTrainedTokenizerFast

from lmft.config.dataset_knobs import DocumentRule
from lmft.dataset import chunked_tokenize as pieces
from lmft.dataset import documents as document_pieces
from lmft.dataset import word_cache as words
from lmft.dataset.sources import TextFiles
from lmft.dataset.split import Split
from lmft.dataset.text_counts import TextCounts
from lmft.dataset.token_stream import Blocks, check_has_text, open_stream
from lmft.dataset.tokenizer import find_separator, load_tokenizer, text_backend
from lmft.dataset.word_cache import WordCache, words_are_independent
from lmft.errors import UserError
from tests.helpers.corpus import (
    PROSE,
    BlockingSource,
    BrokenSource,
    ListSource,
    as_split,
    train_small_tokenizer,
)
from tests.helpers.processes import fork

NAMES = ["gpt2", "stories260k", "minilm", "smollm2", "trained"]
WORDS = ["the", " cat", "'s", " 12,345", "<s>", "</s>", "<|endoftext|>", "[SEP]", "<unk>", "é",
         "e\N{COMBINING ACUTE ACCENT}", "\N{CAT FACE}", "\U0001f44d\U0001f3ff", "日本語",
         "\n", "\n\n", "  ", " \n ", "\t", "\x1c", "\x85", "\u2028",
         "\u200b", "\xa0", "Ⅷ", "ﬁ", "\0", "▁"]  # fmt: skip
RUNS = st.builds(lambda char, n: char * n, st.sampled_from("a =\n\t\xa0éZ0\N{CAT FACE}日'"),
                 st.integers(2, 400))  # fmt: skip
SHORT = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=4)), max_size=8).map("".join)
CHUNKS = st.one_of(st.sampled_from([PROSE, *WORDS]), SHORT, RUNS)
LONG = st.lists(CHUNKS, min_size=1, max_size=12).map("".join)
FEW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="session")
def tokenizers(shared, stories):
    """Tokenizers by name; others are added when a test first needs them."""
    folders = {"gpt2": shared / "models" / "gpt2-tokenizer", "stories260k": stories}
    return {name: load_tokenizer(str(folder), revision=None) for name, folder in folders.items()}


@pytest.fixture(scope="module", params=NAMES)
def tokenizer(request, tokenizers):
    name = request.param
    if name not in tokenizers:
        if name == "trained":
            tokenizers[name] = train_small_tokenizer()
        else:
            tokenizers[name] = load_tokenizer(str(request.getfixturevalue(name)), revision=None)
    return tokenizers[name]


@pytest.fixture
def gpt2(tokenizers):
    return tokenizers["gpt2"]


@pytest.fixture(scope="module")
def trained():
    return train_small_tokenizer()


def ids_of(tokenizer, text, special=False):
    return tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]


def plain_stream(tokenizer, documents, separator):
    """The ids and the ends of documents, computed with transformers alone."""
    if separator not in ("eos", "none", "model"):
        joined = tokenizer(
            separator.join(documents),
            add_special_tokens=False, return_offsets_mapping=True, verbose=False,
        )  # fmt: skip
        starts = [start for start, _ in joined["offset_mapping"]]
        ends, end = [], -len(separator)
        for text in documents:
            end += len(separator) + len(text)
            ends.append(sum(start < end for start in starts))
        ends[-1] = len(starts)
        return joined["input_ids"], ends
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    ids, ends = [], []
    for number, text in enumerate(documents, start=1):
        ids += ids_of(tokenizer, text, special=separator == "model")
        if separator == "eos" and number < len(documents):
            ids.append(eos)
        ends.append(len(ids))
    return ids, ends


# Long documents


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "STRIDE", 300)
    monkeypatch.setattr(pieces, "OVERLAP", 150)


def stitched(tokenizer, text):
    """The ids of `text` read in parts of 97 characters, and the number of encoded parts."""
    texts = (text[start : start + 97] for start in range(0, len(text), 97))
    found = list(pieces.encode_long(texts, text_backend(tokenizer)))
    return [int(token) for part in found for token in part.ids], len(found)


def test_ordinary_text_is_tokenized_in_pieces_that_join_seamlessly(
    tokenizer, wikitext, small_pieces
):
    text = (wikitext / "valid.txt").read_text()[:40_000] + PROSE * 20
    found, parts = stitched(tokenizer, text)
    assert found == ids_of(tokenizer, text)
    assert parts > 100


@FEW
@given(text=LONG)
@example(text="a" * 2000)
@example(text=" " * 2000)
@example(text="\n" * 901 + "a")
@example(text="\N{CAT FACE}" * 900)
@example(text="ab " * 500 + "x" * 700 + PROSE * 9)
def test_any_long_text_in_pieces_gives_the_tokens_of_the_whole(tokenizer, text, small_pieces):
    text = PROSE * 3 + text + PROSE * 3 + text[: len(text) // 2] + "the end" * 90
    assert len(list(pieces._overlapping_chunks(iter([text])))) > 2
    assert stitched(tokenizer, text)[0] == ids_of(tokenizer, text)


@FEW
@given(texts=st.lists(LONG, min_size=1, max_size=3), separator=st.sampled_from(["eos", "model"]))
def test_long_documents_among_short_ones_stand_where_they_should(
    trained, texts, separator, small_pieces, tmp_path_factory
):
    cache = tmp_path_factory.mktemp("cache")
    texts = ["", *texts, "short", PROSE * 30, "last"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_pieces, "PIECE_SIZE", 200)
        stream = open_stream(as_split(texts), trained, separator, cache)
    ids, _ = plain_stream(trained, texts, separator)
    assert stream.ids.tolist() == ids


# Words


@pytest.mark.parametrize("tokenizer", ["gpt2", "smollm2", "trained"], indirect=True)
@FEW
@given(texts=st.lists(st.one_of(SHORT, LONG), max_size=6))
@example(texts=[])
@example(texts=["", " ", "a", "", "  a  ", "\x1c a\x1c"])
def test_words_tokenized_once_give_the_tokens_of_the_text(tokenizer, texts):
    backend = text_backend(tokenizer)
    ids, counts = WordCache(backend).encode(texts)
    plain = [ids_of(tokenizer, text) for text in texts]
    assert ids.tolist() == [token for some in plain for token in some]
    assert counts.tolist() == [len(some) for some in plain]


def test_every_character_may_stand_between_words_and_in_them(gpt2):
    assert words_are_independent(text_backend(gpt2))
    chars = [chr(code) for code in [*range(0x2100), 0x3000, 0xFEFF, 0x1F431]]
    texts = [f"a{c}b !{c}! 1{c}{c}1 x {c} {c}\n{c}a  {c}.\n\n{c}" for c in chars]
    ids, counts = WordCache(text_backend(gpt2)).encode(texts)
    plain = [found.ids for found in text_backend(gpt2).encode_batch_fast(texts)]
    assert counts.tolist() == [len(some) for some in plain]
    assert ids.tolist() == [token for some in plain for token in some]


def test_the_word_cache_is_cleared_when_it_is_full(trained, monkeypatch):
    monkeypatch.setattr(words, "MEMORY", 1000)
    memory = WordCache(text_backend(trained))
    for number in range(20):
        text = PROSE + f"{number} more"
        assert memory.encode([text])[0].tolist() == ids_of(trained, text)
        assert memory.memory < 1000 + 200 * len(PROSE.split())


@pytest.mark.parametrize("tokenizer", NAMES, indirect=True)
def test_only_tokenizers_that_see_one_word_at_a_time_are_trusted(tokenizer):
    kind = text_backend(tokenizer).pre_tokenizer
    byte_level = kind is not None and "ByteLevel" in repr(kind)
    assert words_are_independent(text_backend(tokenizer)) == byte_level


@pytest.mark.parametrize("token", [AddedToken("cat sat"), AddedToken("cat", rstrip=True)])
def test_a_tokenizer_with_a_token_across_words_is_not_trusted(token):
    tokenizer = train_small_tokenizer()
    assert words_are_independent(text_backend(tokenizer))
    tokenizer.add_tokens([token])
    assert not words_are_independent(text_backend(tokenizer))


@pytest.mark.parametrize("settings", [{"add_prefix_space": True}, {"use_regex": False}])
def test_a_tokenizer_that_looks_beyond_words_is_not_trusted(settings, tmp_path):
    tokenizer = train_small_tokenizer()
    whole = {"add_prefix_space": False, "use_regex": True} | settings
    tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(**whole)
    assert not words_are_independent(text_backend(tokenizer))
    stream = open_stream(as_split([PROSE * 2, "a\nb"]), tokenizer, "none", tmp_path)
    assert stream.ids.tolist() == ids_of(tokenizer, PROSE * 2) + ids_of(tokenizer, "a\nb")


# Separators


@FEW
@given(
    documents=st.lists(st.one_of(SHORT, st.just(""), st.just(PROSE)), min_size=1, max_size=5),
    separator=st.sampled_from(["eos", "none", "model", "\n\n", " ", "</s>", "\N{CAT FACE}"]),
)
def test_a_stream_equals_what_transformers_would_give(
    tokenizer, documents, separator, tmp_path_factory
):
    cache = tmp_path_factory.mktemp("cache")
    ids, ends = plain_stream(tokenizer, documents, separator)
    if not ids:
        with pytest.raises(UserError):
            open_stream(as_split(documents), tokenizer, separator, cache)
        return
    stream = open_stream(as_split(documents), tokenizer, separator, cache)
    assert stream.ids.tolist() == ids
    assert stream.ends.tolist() == ends
    assert stream.ends[-1] == len(stream.ids)


def test_the_raw_test_split_has_as_many_tokens_as_are_published(shared, gpt2, tmp_path):
    path = tmp_path / "wiki.test.txt"
    path.write_bytes((shared / "data" / "wikitext-2-raw" / "wiki.test.raw").read_bytes())
    lines = path.read_text().split("\n")
    rows = ["" if not line.strip() else f"{line}\n" for line in lines]
    if not lines[-1]:
        rows.pop()
    stream = open_stream(as_split(rows), gpt2, "\n\n", tmp_path)
    assert len(stream.ids) == 287_644
    assert len(stream.ends) == len(rows)
    split = Split("test", "", TextFiles("text"), str(path), DocumentRule.file, None, 0.05, None)
    stream = open_stream(split, gpt2, "eos", tmp_path)  # above 1 MB: in pieces
    assert len(stream.ids) == 286_221


def test_a_tokenizer_without_offsets_takes_whole_documents(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(document_pieces, "PIECE_SIZE", 10)
    byt5 = ByT5Tokenizer()
    documents = [PROSE, "", "short", "\N{CAT FACE}" * 30]
    for separator in ("eos", "none", "model"):
        with caplog.at_level(logging.WARNING, logger="lmft"):
            stream = open_stream(as_split(documents), byt5, separator, tmp_path)
        assert "ByT5Tokenizer gives no offsets" in caplog.text
        ids, ends = plain_stream(byt5, documents, separator)
        assert (stream.ids.tolist(), len(stream.ends)) == (ids, len(ends))
    with pytest.raises(UserError, match="dataset.separator"):
        open_stream(as_split(documents), byt5, "\n\n", tmp_path)


# Blocks


@FEW
@given(count=st.integers(1, 200), size=st.integers(2, 50))
def test_blocks_drop_no_token_and_only_the_last_is_short(trained, count, size, tmp_path_factory):
    stream = open_stream(
        as_split([" a" * count]), trained, "none", tmp_path_factory.mktemp("cache")
    )
    blocks = Blocks(stream, size)
    rows = [blocks.read(np.array([number])) for number in range(len(blocks))]
    assert [token for row in rows for token in row[0].tolist()] == stream.ids.tolist()
    lengths = [row.shape[1] for row in rows]
    assert lengths == [blocks.length(number) for number in range(len(blocks))]
    assert set(lengths[:-1]) <= {size} and 0 < lengths[-1] <= size


def test_ids_take_two_bytes_where_the_vocabulary_allows_and_four_where_not(shared, tmp_path):
    tokenizer = load_tokenizer(str(shared / "models" / "gpt2-tokenizer"), revision=None)
    small = open_stream(as_split([PROSE]), tokenizer, "eos", tmp_path)
    assert small.ids.dtype == np.uint16
    assert isinstance(small.ids, np.memmap) and not small.ids.flags.writeable
    last = 1 << 16  # the first id that two bytes can't hold
    tokenizer.add_tokens([f"<extra{number}>" for number in range(len(tokenizer), last)])
    assert open_stream(as_split([PROSE]), tokenizer, "eos", tmp_path).ids.dtype == np.uint16
    tokenizer.add_tokens([f"<extra{last}>"])
    large = open_stream(as_split([f"a<extra{last}>"]), tokenizer, "eos", tmp_path)
    assert large.ids.dtype == np.uint32 and large.ids.tolist() == [64, last]


# The cache


def test_a_stream_is_made_once(trained, tmp_path):
    source = ListSource([PROSE, "more"])
    first = open_stream(as_split(source), trained, "eos", tmp_path)
    assert len(source.readings) == 1
    again = open_stream(as_split(source), trained, "eos", tmp_path)
    assert len(source.readings) == 1
    for one, other in zip(vars(first).values(), vars(again).values(), strict=True):
        assert np.array_equal(one, other)


def test_whatever_changes_the_tokens_makes_another_stream(tokenizers, trained, tmp_path):
    streams = [
        open_stream(as_split(["a", "b"]), trained, "eos", tmp_path),
        open_stream(as_split(["a", "c"]), trained, "eos", tmp_path),
        open_stream(as_split(["a", "b"], where="test"), trained, "eos", tmp_path),
        open_stream(as_split(["a", "b"]), trained, "none", tmp_path),
        open_stream(as_split(["a", "b"]), trained, "\n", tmp_path),
        open_stream(as_split(["a", "b"]), tokenizers["stories260k"], "eos", tmp_path),
    ]
    assert len({stream.digest for stream in streams}) == len(streams)


def test_the_time_of_a_file_does_not_matter(trained, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(PROSE)

    def digest():
        split = as_split(TextFiles("text"), where=str(path))
        return open_stream(split, trained, "eos", tmp_path).digest

    first = digest()
    os.utime(path, (0, 0))
    assert digest() == first
    path.write_text(PROSE + "!")
    assert digest() != first


@pytest.mark.parametrize(
    "documents, source", [(["a", "b"], BrokenSource), (["", ""], ListSource), ([], ListSource)]
)
def test_a_stream_that_fails_leaves_nothing_behind(documents, source, trained, tmp_path):
    with pytest.raises(UserError) as caught:
        open_stream(as_split(documents, source=source), trained, "none", tmp_path)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    assert [path.suffix for path in (tmp_path / "tokens").iterdir()] in ([".lock"], [])


@pytest.mark.parametrize("separator", ["eos", "none", "model", "\n\n"])
@pytest.mark.parametrize("texts", [[""] * 40, [None] * 40])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_split_of_empty_texts_is_refused(suffix, texts, separator, trained, tmp_path):
    path = tmp_path / f"rows{suffix}"
    records = [{"text": text} for text in texts]
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        lines = "\n".join(map(json.dumps, records))
        path.write_text(lines if suffix == ".jsonl" else json.dumps(records))
    split = Split(
        "validation", "", TextFiles("text"), str(path), DocumentRule.auto, None, 0.05, None
    )
    with pytest.raises(UserError) as caught:
        stream = open_stream(split, trained, separator, tmp_path)
        check_has_text(split, stream, find_separator(separator, trained))
    assert str(caught.value).startswith(f"dataset.validation ({str(path)!r}) has no text")
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize("separator", ["eos", "none", "model", "\n\n"])
def test_text_that_the_tokenizer_drops_is_none(separator, tmp_path):
    backend = Tokenizer(WordLevel({"[UNK]": 0, "[SEP]": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing("$0 [SEP]", special_tokens=[("[SEP]", 1)])
    drops = PreTrainedTokenizerFast(tokenizer_object=backend, sep_token="[SEP]")
    split = as_split([" ", "\n"])
    with pytest.raises(UserError, match="has no text"):
        stream = open_stream(split, drops, separator, tmp_path)
        check_has_text(split, stream, find_separator(separator, drops))


@pytest.mark.parametrize("separator", ["eos", "none", "model", "\n\n"])
@pytest.mark.parametrize("size", [3, 1 << 20])
def test_documents_empty_ones_and_bytes_are_counted(
    size, separator, trained, tmp_path, monkeypatch
):
    monkeypatch.setattr(document_pieces, "PIECE_SIZE", size)
    path = tmp_path / "rows.jsonl"
    texts = ["the cat", "", None, " \n \n ", "    é", "caf\N{CAT FACE}"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    split = Split("test", "", TextFiles("text"), str(path), DocumentRule.auto, None, 0.05, None)
    for _ in ("written", "from the cache"):
        stream = open_stream(split, trained, separator, tmp_path)
        assert stream.counts == TextCounts(files=1, documents=6, empty=3, bytes=7 + 5 + 6 + 7)
        check_has_text(split, stream, find_separator(separator, trained))


@pytest.mark.parametrize(
    "counts, line",
    [
        (TextCounts(1, 1, 0, 2_700), "1 file · 1 document · 0 empty · 2.7 kB"),
        (TextCounts(2, 1_000, 3, 5_600_000), "2 files · 1,000 documents · 3 empty · 5.6 MB"),
        (TextCounts(None, 20, 0, 1_000), "20 documents · 0 empty · 1.0 kB"),
    ],
)
def test_counts_are_described_on_a_line(counts, line):
    assert counts.describe() == line


def open_blocked(folder):
    """Open a stream whose source waits, once there is the file `start`."""
    while not (folder / "start").exists():
        time.sleep(0.01)
    split = as_split([PROSE, "more"], where=str(folder / "log"), source=BlockingSource)
    open_stream(split, train_small_tokenizer(), "eos", folder)


@pytest.fixture(scope="module", autouse=True)
def other_process(tmp_path_factory):
    """A process that waits for `start` in a folder: it imports while the other tests run."""
    folder = tmp_path_factory.mktemp("both")
    child = fork(open_blocked, folder)
    yield folder, child
    child.kill()
    child.join()


def test_two_processes_that_start_at_once_share_one_stream(other_process, trained):
    folder, child = other_process
    (folder / "start").touch()
    while not (folder / "log").exists():  # the child reads, and so it holds the lock
        assert child.is_alive()
        time.sleep(0.01)
    Timer(0.2, (folder / "log.go").touch).start()
    split = as_split([PROSE, "more"], where=str(folder / "log"), source=BlockingSource)
    stream = open_stream(split, trained, "eos", folder)
    assert (folder / "log.go").exists(), "it did not wait"
    child.join(60)
    assert child.exitcode == 0
    assert (folder / "log").read_text() == "read\n"
    assert stream.ids.tolist() == plain_stream(trained, [PROSE, "more"], "eos")[0]
