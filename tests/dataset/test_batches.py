import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmft.dataset.batches import Batches
from lmft.dataset.token_stream import Blocks, TokenStream
from lmft.dataset.tokenizer import train_tokenizer
from lmft.objective import IGNORED, CausalLM, MaskedLM


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(iter(["the cat sat on a mat"]), 300)


def batches(tokens, size, objective, tokenizer):
    ids = (np.arange(tokens) % 270 + 10).astype(np.uint16)
    stream = TokenStream(ids, np.array([tokens]), "")
    return Batches(Blocks(stream, size), objective, tokenizer)


@settings(deadline=None)
@given(
    tokens=st.integers(2, 200), size=st.integers(2, 40), batch=st.integers(1, 9),
    seed=st.integers(0, 2**63 - 1), shuffle=st.booleans(), masked=st.booleans(),
)  # fmt: skip
def test_an_epoch_reads_every_token_once(tokenizer, tokens, size, batch, seed, shuffle, masked):
    objective = MaskedLM(0.3) if masked else CausalLM()
    some = batches(tokens, size, objective, tokenizer)
    endless = some.training(batch, seed, shuffle)
    lone = not masked and tokens % size == 1  # a last token with nothing to predict
    for _ in range(2):
        parts = [part for _ in range(some.steps_per_epoch(batch)) for part in next(endless)]
        read = torch.cat([torch.where(p.targets != IGNORED, p.targets, p.inputs).flatten() if masked
                          else p.inputs.flatten() for p in parts])  # fmt: skip
        expected = np.sort(some.blocks.stream.ids[: tokens - lone])
        assert np.array_equal(np.sort(read.numpy()), expected)
        assert sum(len(part.inputs) for part in parts) == len(some)


@settings(deadline=None, max_examples=30)
@given(start=st.integers(0, 30), seed=st.integers(0, 9))
def test_batches_from_any_position_are_those_that_would_have_come(tokenizer, start, seed):
    some = batches(100, 8, MaskedLM(0.3), tokenizer)
    through, jumped = some.training(3, seed, True), some.training(3, seed, True, start=start)
    for _ in range(start):
        next(through)
    for _ in range(4):
        for one, other in zip(next(through), next(jumped), strict=True):
            assert torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)


def test_each_epoch_has_an_order_of_its_own_and_shuffle_false_has_file_order(tokenizer):
    some = batches(800, 8, CausalLM(), tokenizer)
    steps = some.training(100, 0, True)
    first, second = next(steps)[0].inputs, next(steps)[0].inputs
    assert not torch.equal(first, second)
    in_order = next(some.training(100, 0, False))[0].inputs
    assert np.array_equal(in_order.flatten().numpy(), some.blocks.stream.ids)
