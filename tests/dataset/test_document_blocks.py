"""Blocks of documents: none is cut that fits, none sees another, no token is lost."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lmft.config.dataset_knobs import Attention, LongDocuments, Packing
from lmft.dataset.batches import Batches
from lmft.dataset.block_rule import BlockRule
from lmft.dataset.document_blocks import cut_documents
from lmft.dataset.packing import pack
from lmft.dataset.token_stream import TokenStream
from lmft.objective import IGNORED, CausalLM

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=40).filter(any)
PADDING = 0


def stream_of(lengths, learnt=None):
    """Documents of these lengths; each token is a number of its own, from 1."""
    ids = np.arange(1, sum(lengths) + 1)
    bits = None if learnt is None else np.packbits(learnt)
    return TokenStream(ids, np.cumsum(lengths), "", learnt=bits)


def first_fit(lengths, size):
    """The number of blocks into which the next document goes where it first fits."""
    rooms = []
    for length in lengths:
        place = next((i for i, room in enumerate(rooms) if room >= length), len(rooms))
        rooms[place:] = rooms[place:] or [size]
        rooms[place] -= length
    return len(rooms)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60), size=st.integers(30, 50))
def test_no_two_blocks_would_fit_into_one(lengths, size):
    blocks = pack(np.array(lengths), size)
    used = np.sort(np.bincount(blocks, lengths))
    assert used.min() > 0 and used.max() <= size
    assert len(used) == 1 or used[0] + used[1] > size
    firsts = np.unique(blocks, return_index=True)[1]
    assert all(one < other for one, other in pairwise(firsts))


def test_blocks_are_as_full_as_by_first_fit():
    for seed in range(20):
        lengths = np.random.default_rng(seed).lognormal(4, 1, 300).astype(int).clip(1, 512)
        count = pack(lengths, 512).max() + 1
        assert count <= first_fit(lengths.tolist(), 512)
        assert lengths.sum() / (count * 512) > 0.95


@given(
    lengths=LENGTHS, size=st.integers(2, 30), packing=st.sampled_from(list(Packing)[1:]),
    attention=st.sampled_from(list(Attention)[1:]), long=st.sampled_from(LongDocuments),
)  # fmt: skip
def test_every_token_is_read_once_and_no_document_is_cut_that_fits(
    lengths, size, packing, attention, long
):
    if packing is Packing.stream:
        attention, long = Attention.document, LongDocuments.split
    stream = stream_of(lengths)
    blocks = cut_documents(stream, size, BlockRule(packing, attention, long), PADDING)
    rows = blocks.read(np.arange(len(blocks))).numpy().reshape(len(blocks), size)
    read = rows[rows != PADDING]
    kept = {LongDocuments.split: 10**9, LongDocuments.truncate: size, LongDocuments.drop: 0}[long]
    documents = np.split(stream.ids, stream.ends[:-1])
    expected = [d if len(d) <= size else d[:kept] for d in documents]
    assert np.array_equal(np.sort(read), np.concatenate(expected))
    assert np.array_equal(rows != PADDING, blocks.read_learnt(np.arange(len(blocks))).numpy())
    if packing is Packing.documents:
        texts = [f" {' '.join(map(str, row))} " for row in rows]
        for document in documents:
            if 0 < len(document) <= size:
                assert sum(f" {' '.join(map(str, document))} " in text for text in texts) == 1
        assert blocks.long == sum(length > size for length in lengths)
    if len(blocks):
        assert blocks.fill == len(read) / rows.size
    again = cut_documents(stream, size, blocks.rule, PADDING)
    assert np.array_equal(again.starts, blocks.starts)


@given(
    lengths=LENGTHS, size=st.integers(2, 30), data=st.data(),
    packing=st.sampled_from(list(Packing)[1:]), attention=st.sampled_from(list(Attention)[1:]),
)  # fmt: skip
def test_targets_are_the_learnt_tokens_after_the_first_of_each_document(
    lengths, size, data, packing, attention
):
    if packing is Packing.stream:
        attention = Attention.document
    learnt = None
    if data.draw(st.booleans()):
        count = sum(lengths)
        learnt = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    stream = stream_of(lengths, learnt)
    rule = BlockRule(packing, attention, LongDocuments.split)
    blocks = cut_documents(stream, size, rule, PADDING)
    batches = Batches(blocks, CausalLM(), None)
    batch = batches._part(np.arange(len(blocks)), 0, 1)
    found = batch.targets[batch.targets != IGNORED].numpy()
    starts = blocks.starts if attention is Attention.document else blocks.starts[blocks.firsts[:-1]]
    chosen = stream.ids if learnt is None else stream.ids[learnt]
    assert np.array_equal(np.sort(found), np.setdiff1d(chosen, stream.ids[starts]))
    if learnt is None and attention is Attention.document:
        assert batch.num_targets == (blocks.ends - blocks.starts - 1).sum()
    has_targets = (batch.targets != IGNORED).any(dim=1).numpy()
    assert np.array_equal(batches.numbers, np.flatnonzero(has_targets))
    if batch.positions is None:
        return
    before = np.zeros_like(batch.inputs)  # the position of a token is one more than that before it
    before[:, 1:] = batch.positions[:, :-1] + 1
    follows = batch.inputs.numpy()[:, 1:] == batch.inputs.numpy()[:, :-1] + 1
    inside = follows & ~np.isin(batch.inputs.numpy()[:, 1:], stream.ids[blocks.starts])
    positions = batch.positions.numpy()
    assert np.array_equal(positions[:, 1:][inside], before[:, 1:][inside])
    assert not positions[np.isin(batch.inputs.numpy(), stream.ids[blocks.starts])].any()


def test_the_padding_of_a_masked_model_is_unseen_where_documents_see_each_other():
    rule = BlockRule(Packing.documents, Attention.block, LongDocuments.split)
    blocks = cut_documents(stream_of([3, 2]), 8, rule, PADDING)
    positions = blocks.read_positions(np.array([0]), causal=False)
    assert positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert blocks.read_positions(np.array([0]), causal=True) is None
    alone = replace(blocks, rule=replace(rule, attention=Attention.document))
    assert alone.read_positions(np.array([0]), causal=True).tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]


def test_long_documents_left_without_a_learnt_token_are_counted():
    learnt = np.zeros(30, dtype=bool)
    learnt[[9, 12, 29]] = True  # of documents of 10, 5 and 15 tokens
    rule = BlockRule(Packing.documents, Attention.document, LongDocuments.truncate)
    blocks = cut_documents(stream_of([10, 5, 15], learnt), 8, rule, PADDING)
    assert (blocks.long, blocks.unlearnt, blocks.with_targets(1).tolist()) == (2, 2, [1])
    assert "2 longer documents truncated, 2 without a learnt token" in blocks.describe()
