"""Optimizer steps of a tiny model on text that can be learnt, without a corpus or a run."""

from functools import partial
from itertools import islice
from types import SimpleNamespace

import torch

from lmft.config.schema import RunConfig
from lmft.config.training_knobs import OnNonfinite, Precision, Schedule, TrainerConfig
from lmft.evaluation.scoring import score
from lmft.evaluation.windows import windows_of
from lmft.hardware.device import Hardware
from lmft.hardware.mfu import FlopsEstimate
from lmft.objective import Batch
from lmft.optimizer import build_optimizer
from lmft.trainer.components import Components
from lmft.trainer.step import training_steps
from lmft.trainer.training import Training
from tests.helpers.architectures import build_tiny

STOP = OnNonfinite.stop
CONFIG = TrainerConfig(
    1, None, 4, Schedule.linear, 0, 1.0, STOP, None, None, False, None, None, False
)
BLOCKS = SimpleNamespace(block_size=16)  # of a dataset's config, what steps read
FLOPS = FlopsEstimate(peak=1.0, body_weights=1, head_weights=1, attention_flops=1.0)
MORE_STEPS = 999  # of the schedule


def hardware(precision=Precision.fp32, checkpoint=False):
    return Hardware(torch.device("cpu"), precision, 4, False, checkpoint)


class Counting:
    """Endless batches of text that can be learnt: each token is the one before plus 1 to 3."""

    def training(self, size, seed, shuffle, start=0):
        number = start
        while True:
            generator = torch.Generator().manual_seed(number)
            steps = torch.randint(1, 4, (4, 17), generator=generator)
            ids = 3 + steps.cumsum(dim=1) % 90
            yield [Batch(ids[:, :-1], ids[:, 1:].clone())]
            number += 1


def training_of(network, optimizer, precision=Precision.fp32, config=CONFIG):
    """The training of a network on text that it counts; of the config, steps read three parts."""
    run_config = RunConfig(BLOCKS, *[None] * 4, config, *[None] * 4, 0, *[None] * 4)
    components = Components(hardware(precision), None, {"train": Counting()}, network)
    return Training(run_config, components, optimizer, FLOPS)


def start_training(network, done=0, scale=None, precision=Precision.fp32, config=CONFIG):
    make = partial(torch.optim.AdamW, lr=1e-3, fused=True)
    optimizer = build_optimizer(make, network.model)
    training = training_of(network, optimizer, precision, config)
    return optimizer, training_steps(training, done + 1, MORE_STEPS, scale)


def losses(network, precision=Precision.fp32, steps=100):
    return [
        step.loss.mean for step in islice(start_training(network, precision=precision)[1], steps)
    ]


def score_split(run, components, split="test"):
    """The scores of a whole split."""
    batches = components.batches[split]
    windows = windows_of(batches, run.config.evaluation)
    return score(components.network, batches, components.hardware, windows)


def without_dropout(kind):
    model = build_tiny(kind)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    if kind == "gpt2":
        for block in model.transformer.h:
            block.attn.attn_dropout.p = 0.0
    return model
