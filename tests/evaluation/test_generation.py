"""The samples that are drawn from validation text."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from lmft.dataset.batches import Batches
from lmft.dataset.token_stream import Blocks, TokenStream
from lmft.dataset.tokenizer import train_tokenizer
from lmft.evaluation.generation import document_middles, draw_samples
from lmft.objective import CausalLM

TEXT = "the little girl necessarily understood an extraordinarily complicated explanation " * 3


def as_batches(ids, ends, tokenizer=None):
    stream = TokenStream(np.array(ids, dtype=np.uint16), np.array(ends), "")
    return Batches(Blocks(stream, 8), CausalLM(), tokenizer)


def test_documents_of_one_token_give_no_samples():
    class Network:
        def eval(self):
            pass

    assert document_middles(as_batches(range(3), [1, 2, 3]), count=3, tokens=4) == []
    assert draw_samples(Network(), as_batches(range(3), [1, 2, 3])) == []


def test_documents_of_several_tokens_give_their_middles():
    tokenizer = train_tokenizer(iter(["a"]), 300)
    ids = tokenizer("你好吗他们", add_special_tokens=False)["input_ids"]  # no word begins inside
    assert len(ids) == 15
    batches = as_batches([0, *ids, 0], [1, 16, 17], tokenizer)
    (middle,) = document_middles(batches, count=3, tokens=5)
    assert middle.tolist() == ids[5:10]


@pytest.mark.parametrize("tokens", range(17, 40))
@pytest.mark.parametrize("kind", ["trained", "sentencepiece"])
def test_a_prompt_begins_and_ends_with_whole_words(kind, tokens, stories):
    if kind == "trained":
        tokenizer = train_tokenizer(iter(["the little girl"]), 300)
    else:
        tokenizer = AutoTokenizer.from_pretrained(stories)
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    (prompt,) = document_middles(as_batches(ids, [len(ids)], tokenizer), count=1, tokens=tokens)
    words = tokenizer.decode(prompt).split()
    assert words and set(words) <= set(TEXT.split())
