"""Checkpoints: whole or not taken, and all that going on takes."""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmft.checkpoint import Checkpoints, load_checkpoint
from lmft.tensors import write_state


def make(seed, kind=torch.optim.AdamW):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    model[0].weight.shared = True
    return model, kind(model.parameters(), lr=0.1)


def save(checkpoints, number, model, optimizer, progress, best):
    def write(folder):
        return write_state(Path(folder), model, optimizer)

    checkpoints.save(number, write, progress, best)


def step(model, optimizer, number):
    torch.manual_seed(number)
    model(torch.randn(2, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adafactor, torch.optim.SGD])
def test_going_on_from_a_checkpoint_changes_no_bit(kind, tmp_path):
    model, optimizer = make(0, kind)
    for number in range(3):
        step(model, optimizer, number)
    save(Checkpoints(tmp_path / "c"), 3, model, optimizer, {"step": 3}, 0)
    other, its_optimizer = make(1, kind)
    found = Checkpoints(tmp_path / "c").newest()
    assert found.progress == {"step": 3}
    load_checkpoint(found.path, other, its_optimizer)
    for number in range(3, 6):
        step(model, optimizer, number)
        step(other, its_optimizer, number)
    for weight, its in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, its)


def test_the_newest_two_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    model, optimizer = make(0)
    for number, best in {1: 0, 2: 2, 3: 2, 4: 4}.items():
        if best == number:
            checkpoints.best(best).mkdir()
            (checkpoints.best(best) / "model.safetensors").write_text("weights")
        save(checkpoints, number, model, optimizer, {}, best)
    assert {path.name for path in tmp_path.iterdir()} == {"step-3", "step-4", "best-2", "best-4"}
    save(checkpoints, 5, model, optimizer, {}, 4)
    assert {path.name for path in tmp_path.iterdir()} == {"step-4", "step-5", "best-4"}


@settings(deadline=None, max_examples=40)
@given(data=st.data(), best=st.booleans())
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path_factory, data, best):
    checkpoints = Checkpoints(tmp_path_factory.mktemp("checkpoints"))
    model, optimizer = make(0)
    save(checkpoints, 1, model, optimizer, {"step": 1}, 0)
    checkpoints.best(2).mkdir()
    (checkpoints.best(2) / "model.safetensors").write_text("weights")
    save(checkpoints, 2, model, optimizer, {"step": 2}, 2)
    folder = checkpoints.best(2) if best else checkpoints.root / "step-2"
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= 1 << random.randrange(8)
    path.write_bytes(content)
    assert checkpoints.newest().progress == {"step": 1}
    path.unlink()
    assert checkpoints.newest().progress == {"step": 1}
