"""What auto stands for, and kernels that compute the same bits each time."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lmft.errors import as_fault
from lmft.hardware.determinism import deterministic_kernels
from lmft.hardware.device import Choices, choose_compile
from lmft.trainer.components import COMPILED_FROM, is_long
from tests.helpers.runs import compose

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    "word, device, saved, expected",
    [
        ("auto", CPU, None, False),
        ("auto", CUDA, None, None),  # by the length of the run
        ("auto", CUDA, True, True),
        ("auto", CUDA, False, False),
        ("true", CPU, None, True),
        ("false", CUDA, True, False),
    ],
)
def test_what_is_compiled_is_decided_once(word, device, saved, expected):
    config = compose(f"hardware.compile={word}").hardware
    assert choose_compile(config, device, Choices(compile=saved)) is expected


def test_long_runs_are_compiled():
    model, train = nn.Linear(10, 10, bias=False), SimpleNamespace(steps_per_epoch=lambda size: 10)

    def config_of(steps):
        trainer = SimpleNamespace(batch_size=8, steps=lambda per_epoch: steps)
        return SimpleNamespace(trainer=trainer, tokens_per_step=1000)

    enough = round(COMPILED_FROM / (6 * 100 * 1000))
    assert is_long(config_of(enough + 1), model, train)
    assert not is_long(config_of(enough - 1), model, train)


def test_an_operation_without_a_deterministic_kernel_is_named_with_the_way_out():
    with (
        pytest.raises(RuntimeError) as raised,
        deterministic_kernels(),
    ):
        torch.zeros(4).put_(torch.tensor([1]), torch.tensor([2.0]))
    assert str(as_fault(raised.value)) == (
        "put_ has no kernel that computes the same bits each time; use "
        "hardware.deterministic=false."
    )
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
