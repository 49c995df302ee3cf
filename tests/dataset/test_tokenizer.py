"""Tokenizers that are trained here, and separators between documents."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from lmft.dataset.tokenizer import (
    SPECIAL_TOKENS,
    Separator,
    find_separator,
    load_tokenizer,
    open_trained_tokenizer,
    save_tokenizer,
    text_backend,
    tokenizer_digest,
    train_tokenizer,
)
from lmft.errors import UserError

TEXTS = [
    "the cat sat on the mat, and saw one red dog run by\n",
    "so these dogs ran too, quickly\n",
] * 20


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(iter(TEXTS), vocab_size=300)


@pytest.fixture(scope="module")
def gpt2(shared):
    return load_tokenizer(str(shared / "models" / "gpt2-tokenizer"), revision=None)


def word_tokenizer(**special):
    """A tokenizer of three words that has only the given special tokens."""
    model = models.WordLevel({"the": 0, "cat": 1, "sat": 2}, unk_token="the")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **special)


def rules(tokenizer):
    return tokenizer.backend_tokenizer.to_str()


def test_training_twice_gives_equal_tokenizers(trained):
    again = train_tokenizer(iter(TEXTS), vocab_size=300)
    assert rules(again) == rules(trained)
    assert tokenizer_digest(again) == tokenizer_digest(trained)
    other = train_tokenizer(iter(TEXTS), vocab_size=290)
    assert tokenizer_digest(other) != tokenizer_digest(trained)


def test_a_tokenizer_has_the_given_size_and_all_special_tokens(trained):
    assert len(trained) == 300
    ids = trained.convert_tokens_to_ids(list(SPECIAL_TOKENS.values()))
    assert ids == [0, 1, 2, 3, 4]
    assert trained.mask_token_id == 4 and trained.eos_token_id == trained.sep_token_id == 1


@settings(max_examples=50)
@given(st.text())
def test_any_text_comes_back_from_its_ids(trained, text):
    ids = trained(text, add_special_tokens=False)["input_ids"]
    assert trained.decode(ids) == text


@pytest.mark.parametrize("size", [-1, 0, 260])
def test_a_vocabulary_too_small_for_all_bytes_is_refused(size):
    with pytest.raises(UserError) as caught:
        train_tokenizer(iter(TEXTS), vocab_size=size)
    message = str(caught.value)
    assert f"model.vocab_size is {size}" in message and "261" in message and "\n" not in message
    assert len(train_tokenizer(iter(TEXTS), vocab_size=261)) == 261


def test_a_trained_tokenizer_is_trained_once_and_kept(trained, tmp_path):
    readings = []

    def texts():
        readings.append(None)
        return iter(TEXTS)

    found = [open_trained_tokenizer(texts, "corpus", 300, tmp_path) for _ in range(2)]
    assert len(readings) == 1
    assert rules(found[0]) == rules(found[1]) == rules(trained)
    assert tokenizer_digest(found[0]) == tokenizer_digest(found[1])
    open_trained_tokenizer(texts, "another corpus", 300, tmp_path)
    open_trained_tokenizer(texts, "corpus", 270, tmp_path)
    assert len(readings) == 3


def test_a_training_that_fails_leaves_no_tokenizer(tmp_path):
    with pytest.raises(UserError):
        open_trained_tokenizer(lambda: iter(TEXTS), "corpus", 3, tmp_path)
    assert not [path for path in (tmp_path / "tokenizers").iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("kind", ["gpt2", "bert", "roberta", "llama"])
def test_a_folder_without_a_tokenizer_is_named(kind, tmp_path):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    with pytest.raises(UserError) as caught:
        load_tokenizer(str(tmp_path), revision=None)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_digest_changes_with_what_decides_the_ids(trained, tmp_path):
    first = tokenizer_digest(trained)
    trained.save_pretrained(tmp_path)
    copy = AutoTokenizer.from_pretrained(tmp_path)
    copy.add_tokens(["cat sat"])
    assert tokenizer_digest(copy) != first
    copy = AutoTokenizer.from_pretrained(tmp_path)
    copy.eos_token = "<pad>"
    assert tokenizer_digest(copy) != first


def test_a_digest_and_a_backend_forget_cutting_and_padding(trained):
    before = tokenizer_digest(trained)
    cut = trained(["the cat sat"], truncation=True, max_length=2, padding="max_length")
    assert len(cut["input_ids"][0]) == 2
    assert tokenizer_digest(trained) == before
    assert len(text_backend(trained).encode("the cat sat", add_special_tokens=False).ids) > 2
    assert trained.backend_tokenizer.truncation, "the tokenizer itself was changed"


@pytest.mark.parametrize("before", [(), (0,)])
def test_a_tokenizer_comes_back_from_files_that_add_less(before, trained, tmp_path):
    save_tokenizer(trained, tmp_path, before)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    bare = plain("the cat", add_special_tokens=False)["input_ids"]
    assert plain("the cat")["input_ids"] == [*before, *bare]
    again = load_tokenizer(str(tmp_path), revision=None)
    assert rules(again) == rules(trained) and tokenizer_digest(again) == tokenizer_digest(trained)
    again.save_pretrained(tmp_path)
    assert rules(AutoTokenizer.from_pretrained(tmp_path)) == rules(trained)


def test_none_stands_for_nothing_and_a_text_for_itself(trained):
    assert find_separator("none", trained) == Separator()
    assert find_separator("\n\n", trained) == Separator(text="\n\n")


def test_eos_is_the_end_token_or_sep_where_there_is_none(trained, gpt2):
    assert find_separator("eos", gpt2) == Separator(between=(50256,))
    assert find_separator("eos", trained) == Separator(between=(trained.eos_token_id,))
    bert = word_tokenizer(sep_token="cat")
    assert find_separator("eos", bert) == Separator(between=(bert.sep_token_id,))


def test_bert_s_documents_are_parted_by_sep(minilm):
    bert = load_tokenizer(str(minilm), revision=None)
    assert bert.eos_token is None
    assert find_separator("eos", bert) == Separator(between=(bert.sep_token_id,))
    wrapped = Separator(before=(bert.cls_token_id,), after=(bert.sep_token_id,))
    assert find_separator("model", bert) == wrapped


def test_a_tokenizer_without_an_end_token_is_refused_for_eos():
    with pytest.raises(UserError) as caught:
        find_separator("eos", word_tokenizer())
    assert "dataset.separator" in str(caught.value) and "none" in str(caught.value)


def test_the_model_s_own_wrapping_is_found(trained, gpt2):
    assert find_separator("model", gpt2) == Separator()
    assert find_separator("model", trained) == Separator(before=(0,), after=(1,))
    byt5 = ByT5Tokenizer()
    assert find_separator("model", byt5) == Separator(after=(byt5.eos_token_id,))


@settings(max_examples=20)
@given(text=st.text(max_size=30))
def test_the_model_s_wrapping_is_what_transformers_would_add(trained, text):
    found = find_separator("model", trained)
    ids = trained(text, add_special_tokens=False)["input_ids"]
    assert [*found.before, *ids, *found.after] == trained(text)["input_ids"]


def test_a_separator_typed_in_a_shell_means_line_ends():
    assert find_separator(r"\n\n", None) == Separator(text="\n\n")
