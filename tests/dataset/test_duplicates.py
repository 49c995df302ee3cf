"""Equal documents: counted once by what they say, and left out on request."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmft.dataset import documents as document_pieces
from lmft.dataset.splits import open_splits
from lmft.dataset.text_counts import first_of_each, hash_documents
from lmft.dataset.token_stream import open_stream
from lmft.errors import UserError
from lmft.trainer.evaluate import describe_part
from tests.helpers.corpus import train_small_tokenizer
from tests.helpers.dataset_config import as_config

TEXTS = st.lists(st.sampled_from(["a", "b", "a ", "long " * 9, "", " ", "c", "d"]), min_size=1)


@pytest.fixture(scope="module")
def tokenizer():
    return train_small_tokenizer()


def open_all(folder, drop=False, count=None, prompt_template="none", **texts):
    """The splits of texts by name, each a file of records."""
    paths = dict.fromkeys(("train", "validation", "test"))
    for name, rows in texts.items():
        paths[name] = str(folder / f"{name}.jsonl")
        records = [row if isinstance(row, dict) else {"text": row} for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return open_splits(
        as_config(
            **paths,
            validation_fraction=0.3,
            max_documents=count,
            drop_duplicates=drop,
            chat_template="chatml",
            prompt_template=prompt_template,
        )
    )


def read(split):
    texts, text = [], ""
    for part, ends in split.pieces():
        text += part
        if ends:
            texts.append(text)
            text = ""
    return texts


def without_repeats(texts):
    """The texts, but for those that are there already and not empty."""
    seen = set()
    return [t for t in texts if not t.strip() or not (t in seen or seen.add(t))]


@given(TEXTS, st.integers(1, 4))
def test_equal_documents_have_equal_hashes_in_whatever_pieces(texts, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_pieces, "PIECE_SIZE", size)
        small = hash_documents(document_pieces.split_documents(iter(texts), "row"))
    hashes = hash_documents((text, True) for text in texts)
    assert (small == hashes).all() and len(hashes) == len(texts)
    assert len(np.unique(hashes)) == len({text if text.strip() else "" for text in texts})
    first = first_of_each(hashes)
    assert [t for t, kept in zip(texts, first, strict=True) if kept] == without_repeats(texts)


@given(train=TEXTS, test=TEXTS, count=st.sampled_from([None, 1, 3]))
def test_duplicates_are_left_out_on_request(train, test, count, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    plain = open_all(folder, count=count, train=train, validation=["x"], test=test)
    assert read(plain["train"]) == train[:count] and plain["train"].left_out() == 0
    splits = open_all(folder, True, count, train=train, validation=["x"], test=test)
    kept = without_repeats(train)
    assert read(splits["train"]) == kept[:count]
    others = [text for text in test if not text.strip() or text not in kept[:count]]
    if others:
        assert read(splits["test"]) == others[:count]
    else:
        with pytest.raises(UserError, match="All documents of dataset.test .* in training too"):
            read(splits["test"])
    if count is None:
        assert splits["train"].left_out() == len(train) - len(kept)
        assert not others or splits["test"].left_out() == len(test) - len(others)
    elif count <= len(kept):
        read_until = next(
            n for n in range(len(train) + 1) if without_repeats(train[:n])[count - 1 :]
        )
        assert splits["train"].left_out() == read_until - count


def test_duplicates_are_counted_when_a_corpus_is_tokenized(tokenizer, tmp_path):
    train = ["one", "two", "one", "", "", "one", "three"]
    texts = {"train": train, "validation": ["two", "", "four", "four"], "test": ["five"]}
    splits = open_all(tmp_path, **texts)
    for _ in ("written", "from the cache"):
        streams = {n: open_stream(s, tokenizer, "eos", tmp_path) for n, s in splits.items()}
        assert "7 documents · 2 empty · 2 duplicates · " in streams["train"].counts.describe()
        beside = streams["validation"].counts_beside(streams["train"])
        assert "4 documents · 1 empty · 1 in training too · " in beside.describe()
        assert streams["test"].counts_beside(streams["train"]).in_training == 0
        assert streams["test"].counts_beside(None).duplicates == 0
    dropped = open_all(tmp_path, True, **texts)
    counts = {n: open_stream(s, tokenizer, "eos", tmp_path).counts for n, s in dropped.items()}
    assert "5 documents · 2 empty · 2 duplicates left out · " in counts["train"].describe()
    assert "3 documents · 1 empty" in counts["validation"].describe()
    assert counts["validation"].left_out == 1 and counts["test"].left_out == 0
    limited = open_all(tmp_path, True, 3, **texts)
    assert describe_part(limited["test"]) == ("without duplicates", "first 3 documents")
    assert describe_part(splits["test"]) == ()


def as_chat(*said, tools=None):
    """A chat of which the assistant says every other message."""
    roles = ["user", "assistant"] * len(said)
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
    return {"messages": messages, "tools": tools}


def test_chats_are_counted_and_left_out_like_texts(tokenizer, tmp_path):
    swapped = {"messages": as_chat("a", "b")["messages"][::-1]}  # other roles, the same text
    train = [as_chat("a", "b"), as_chat("b", "a"), as_chat("a", "b"), swapped, as_chat("a", "b")]
    texts = {"train": train, "validation": [as_chat("a", "b"), as_chat("c", "d")]}
    plain = open_all(tmp_path, **texts)
    streams = {n: open_stream(s, tokenizer, "eos", tmp_path) for n, s in plain.items()}
    assert "5 documents · 0 empty · 2 duplicates · " in streams["train"].counts.describe()
    assert streams["validation"].counts_beside(streams["train"]).in_training == 1
    dropped = open_all(tmp_path, True, **texts)
    streams = {n: open_stream(s, tokenizer, "eos", tmp_path) for n, s in dropped.items()}
    assert "3 documents · 0 empty · 2 duplicates left out · " in streams["train"].counts.describe()
    assert streams["validation"].counts.documents == streams["validation"].counts.left_out == 1
    assert len(streams["train"].hashes) == len(streams["train"].ends) == 3


def test_completions_are_compared_with_what_a_template_may_use(tokenizer, tmp_path):
    rows = [{"prompt": "a", "completion": "b", "tone": tone} for tone in ("kind", "kind", "odd")]
    own = tmp_path / "own.txt"
    own.write_text("{{ prompt }} ({{ tone }}): ")
    for template, count in {"none": 1, "alpaca": 1, str(own): 2}.items():
        splits = open_all(tmp_path, True, None, template, train=rows, validation=["x"])
        counts = open_stream(splits["train"], tokenizer, "eos", tmp_path).counts
        assert (counts.documents, counts.duplicates) == (count, 0)
        assert counts.left_out == 3 - count


def test_held_out_documents_that_are_trained_on_are_left_out(tmp_path):
    rows = [f"document {number % 20}" for number in range(60)]
    plain = open_all(tmp_path, train=rows)
    assert Counter(read(plain["train"]) + read(plain["validation"])) == Counter(rows)
    splits = open_all(tmp_path, True, train=rows)
    train, validation = read(splits["train"]), read(splits["validation"])
    assert len(set(train)) == len(train) and set(validation).isdisjoint(train)
    assert set(train + validation) == set(rows)


def test_other_splits_need_no_training_files_unless_they_drop_duplicates(tmp_path):
    for drop in (False, True):
        test = open_all(tmp_path, drop, train=["a"], validation=["a"], test=["b"])["test"]
        (tmp_path / "train.jsonl").unlink()
        if drop:
            with pytest.raises(UserError, match="train.jsonl' is not there"):
                test.digest()
        else:
            assert test.digest() and read(test) == ["b"]


def test_dropping_changes_the_digest_of_each_split(tmp_path):
    texts = {"train": ["a", "b"], "validation": ["c"]}
    found = set()
    for drop in (False, True):
        splits = open_all(tmp_path, drop, **texts)
        found |= {split.digest() for split in splits.values()}
    changed = open_all(tmp_path, True, train=["a", "c", "d"], validation=["c"])
    found |= {split.digest() for split in changed.values()}
    assert len(found) == 6
