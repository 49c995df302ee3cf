import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmft.dataset.batches import block_rng
from lmft.dataset.tokenizer import train_tokenizer
from lmft.errors import UserError
from lmft.objective import IGNORED, CausalLM, MaskedLM


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(iter(["the cat sat on a mat"]), 300)


def generators(rows, seed=0):
    return [block_rng(seed, 1, row) for row in range(rows)]


def test_causal_targets_are_the_next_tokens():
    batch = CausalLM().batch(torch.tensor([[5, 6, 7]]), None, generators(1))
    assert batch.inputs.tolist() == [[5, 6, 7]]
    assert batch.targets.tolist() == [[6, 7, IGNORED]]


@settings(deadline=None)
@given(
    fraction=st.floats(0.01, 0.99), rows=st.integers(1, 5), length=st.integers(1, 40),
    specials=st.integers(0, 20), seed=st.integers(0, 2**63 - 1),
)  # fmt: skip
def test_masked_targets_are_the_stated_share_of_ordinary_tokens(
    tokenizer, fraction, rows, length, specials, seed
):
    blocks = torch.randint(10, 280, (rows, length))
    blocks[:, : min(specials, length)] = tokenizer.eos_token_id
    batch = MaskedLM(fraction).batch(blocks, tokenizer, generators(rows, seed))
    asked = batch.targets != IGNORED
    ordinary = blocks != tokenizer.eos_token_id
    assert (batch.targets[asked] == blocks[asked]).all()
    assert (batch.inputs[~asked] == blocks[~asked]).all()
    assert not (asked & ~ordinary).any()
    count = int(ordinary[0].sum())
    expected = min(count, max(1, round(fraction * count)))
    assert asked.sum(dim=1).tolist() == [expected] * rows


def test_hidden_tokens_become_the_mask_or_noise_or_stay_80_10_10(tokenizer):
    blocks = torch.randint(10, 280, (400, 100))
    batch = MaskedLM(0.3).batch(blocks, tokenizer, generators(400))
    asked = batch.targets != IGNORED  # 12,000 of them
    masked = (batch.inputs[asked] == tokenizer.mask_token_id).float().mean()
    kept = (batch.inputs[asked] == blocks[asked]).float().mean()
    assert float(masked) == pytest.approx(0.8, abs=0.015)
    assert float(kept) == pytest.approx(0.1, abs=0.015)


def test_masks_follow_from_seed_epoch_and_block_alone(tokenizer):
    blocks = torch.randint(10, 280, (6, 32))
    together = MaskedLM(0.15).batch(blocks, tokenizer, generators(6))
    for row in range(6):
        alone = MaskedLM(0.15).batch(blocks[row : row + 1], tokenizer, [block_rng(0, 1, row)])
        assert torch.equal(alone.inputs[0], together.inputs[row])
    others = MaskedLM(0.15).batch(blocks, tokenizer, [block_rng(0, 2, row) for row in range(6)])
    assert not torch.equal(others.targets, together.targets)


def test_random_streams_never_overlap():
    draws = {
        tuple(block_rng(s, e, b).random(4)) for s in range(3) for e in range(3) for b in range(9)
    }
    assert len(draws) == 81
    assert np.array_equal(block_rng(7, 8, 9).random(4), block_rng(7, 8, 9).random(4))


def test_a_tokenizer_without_a_mask_is_refused(tokenizer):
    tokenizer.mask_token = None
    with pytest.raises(UserError, match="mask token"):
        MaskedLM(0.15).check(tokenizer)
