"""Fixtures of the trainer's tests."""

import pytest


@pytest.fixture
def ill(corpus, tmp_path):
    """A corpus with a rare letter for which the model's loss is not finite."""
    import torch

    from lmft.dataset.tokenizer import train_tokenizer
    from tests.helpers.nonfinite import RARE, saved, small_gpt2

    lines = (tmp_path / "train.txt").read_text().splitlines(keepends=True)
    (tmp_path / "train.txt").write_text("".join([*lines[:20], f"the {RARE}\n", *lines[20:]]))
    tokenizer = train_tokenizer(iter(["the cat sat on a mat"]), 300)
    model = small_gpt2(tokenizer)
    with torch.no_grad():
        model.transformer.wte.weight[tokenizer(RARE)["input_ids"][1]] = 1e38
    return [*corpus, *saved(model, tokenizer, tmp_path / "ill")], tokenizer
