"""The samples that are drawn from validation text."""

import numpy as np

from lmft.dataset.batches import Batches
from lmft.dataset.token_stream import Blocks, TokenStream
from lmft.evaluation.generation import document_middles, draw_samples
from lmft.objective import CausalLM


def as_batches(ends):
    stream = TokenStream(np.arange(ends[-1], dtype=np.uint16), np.array(ends), "")
    return Batches(Blocks(stream, 8), CausalLM(), None)


def test_documents_of_one_token_give_no_samples():
    class Network:
        def eval(self):
            pass

    assert document_middles(as_batches([1, 2, 3]), count=3, tokens=4) == []
    assert draw_samples(Network(), as_batches([1, 2, 3])) == []


def test_documents_of_several_tokens_give_their_middles():
    (middle,) = document_middles(as_batches([1, 2, 12, 13]), count=3, tokens=4)
    assert middle.tolist() == [5, 6, 7, 8]
