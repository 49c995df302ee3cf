"""Checkpoints: only intact ones are used, and they hold all that resuming needs."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmft.errors import Fault
from lmft.model.network import Network
from lmft.storage.checksums import write_checksums
from lmft.trainer.checkpoint import Checkpoints, load_checkpoint
from lmft.trainer.progress import Progress
from tests.helpers.training import training_of


def make(seed, kind=torch.optim.AdamW):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    model[0].weight.shared = True
    return model, kind(model.parameters(), lr=0.1)


def training(model, optimizer):
    return training_of(Network(model, model, None), optimizer)


def save(checkpoints, number, model, optimizer, best=0):
    checkpoints.save(training(model, optimizer), Progress(step=number, best_step=best))


def step(model, optimizer, number):
    torch.manual_seed(number)
    model(torch.randn(2, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adafactor, torch.optim.SGD])
def test_resuming_from_a_checkpoint_changes_no_bit(kind, tmp_path):
    model, optimizer = make(0, kind)
    for number in range(3):
        step(model, optimizer, number)
    save(Checkpoints(tmp_path / "c"), 3, model, optimizer)
    other, its_optimizer = make(1, kind)
    found = Checkpoints(tmp_path / "c").newest()
    assert Progress.from_json(found.progress) == Progress(step=3)
    load_checkpoint(found.path, training(other, its_optimizer))
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
        save(checkpoints, number, model, optimizer, best)
    assert {path.name for path in tmp_path.iterdir()} == {"step-3", "step-4", "best-2", "best-4"}
    save(checkpoints, 5, model, optimizer, 4)
    assert {path.name for path in tmp_path.iterdir()} == {"step-4", "step-5", "best-4"}


@settings(deadline=None, max_examples=40)
@given(data=st.data(), best=st.booleans())
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path_factory, data, best):
    checkpoints = Checkpoints(tmp_path_factory.mktemp("checkpoints"))
    save(checkpoints, 1, *make(0))
    with checkpoints.new_best(2) as folder:
        (folder / "model.safetensors").write_text("weights")

    save(checkpoints, 2, *make(0), best=2)
    step_2 = checkpoints.root / "step-2"
    (step_2 / "shard-2.safetensors").write_bytes(b"of another process")  # under FSDP each has one
    write_checksums(step_2)
    folder = checkpoints.best(2) if best else checkpoints.root / "step-2"
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[position:]
    else:
        content[position] ^= 1 << random.randrange(8)
    path.write_bytes(content)
    assert checkpoints.newest().progress["step"] == 1
    path.unlink()
    assert checkpoints.newest().progress["step"] == 1


def test_without_an_intact_checkpoint_a_run_does_not_silently_start_over(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest() is None
    for number in (1, 2):
        save(checkpoints, number, *make(0))
        (tmp_path / f"step-{number}" / "state.json").write_text("{}")
    with pytest.raises(Fault, match="fresh=true"):
        checkpoints.newest()
    (record,) = caplog.records
    damaged = tmp_path / "step-2"
    assert record.getMessage() == f"{damaged} is damaged; resuming from the checkpoint before it."


def test_a_damaged_checkpoint_does_not_displace_an_intact_one(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for number in (4, 8):
        save(checkpoints, number, *make(0))
    (tmp_path / "step-8" / "state.json").write_text("{}")
    assert checkpoints.newest().progress["step"] == 4
    save(checkpoints, 6, *make(0))  # on the way from 4
    assert {path.name for path in tmp_path.iterdir()} == {"step-4", "step-6"}
