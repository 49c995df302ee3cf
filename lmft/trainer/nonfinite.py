"""Keep the batch of a step whose loss or gradients are not finite, to look into it."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from lmft.trainer.gradients import DropoutSeeds, local_micro_batches
from lmft.trainer.session import Session
from lmft.trainer.step import NotFinite, Step

logger = logging.getLogger(__name__)


@contextmanager
def explain_nonfinite(session: Session) -> Iterator[None]:
    """Keep the batch of a step that is not finite.

    Raises:
        FloatingPointError: there is one; the message says where its batch is.
    """
    try:
        yield
    except NotFinite as error:
        path = save_nonfinite_step(session, error.step)
        raise FloatingPointError(f"{str(error)[:-1]}; its batch is in {path}.") from error


def save_nonfinite_step(session: Session, step: Step) -> Path:
    """Write nonfinite-<step>.json, the batch of a step, to the run's folder; return its path."""
    config, hardware = session.run.config, session.components.hardware
    trainer, seeds = config.trainer, DropoutSeeds(config.seed, step.number)
    order = trainer.batch_size, config.seed, trainer.shuffle
    (parts,) = islice(session.training.batches(step.number), 1)
    count = len(list(local_micro_batches(parts, hardware))) * hardware.process_group.size
    name = f"nonfinite-{step.number}.json"
    session.write_json(
        name,
        {
            "step": step.number,
            "loss": _as_json(step.loss.mean),
            "learning_rate": step.learning_rate,
            "grad_norm": _as_json(step.grad_norm),
            "loss_scale": step.loss_scale,
            "blocks": session.components.batches["train"].block_numbers(*order, step.number - 1),
            "inputs": [row for part in parts for row in part.inputs.tolist()],
            "targets": [row for part in parts for row in part.targets.tolist()],
            "micro_batch_size": hardware.micro_batch_size,
            "dropout_seeds": [seeds.of(number) for number in range(count)],
        },
    )
    logger.info("the batch of step %d is in %s", step.number, name)
    return session.run.folder / name


def _as_json(value: float) -> float | str:
    """Return the number, as a string if it is not finite: strict JSON has no infinity."""
    return value if math.isfinite(value) else str(value)
