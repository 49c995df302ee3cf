"""What is kept of a step that is not finite: all that it takes to see why."""

import logging
import math
from itertools import islice
from pathlib import Path

from lmft.gradients import dropout_seed, share_out
from lmft.session import Session
from lmft.trainer import Step

logger = logging.getLogger(__name__)


def keep_facts(session: Session, step: Step) -> Path:
    """Write nonfinite-<step>.json into the run's folder; returns its path."""
    config, hardware = session.config, session.materials.hardware
    batches, trainer = session.materials.batches["train"], config.trainer
    chosen = trainer.batch_size, config.seed, trainer.shuffle
    (parts,) = islice(batches.training(*chosen, start=step.number - 1), 1)
    passes = len(list(share_out(parts, hardware))) * hardware.team.size
    name = f"nonfinite-{step.number}.json"
    session.folder.write_json(
        name,
        {
            "step": step.number,
            "loss": _strict(step.loss.mean),
            "learning_rate": step.learning_rate,
            "grad_norm": _strict(step.grad_norm),
            "loss_scale": step.loss_scale,
            "blocks": batches.block_numbers(*chosen, step.number - 1),
            "inputs": [row for part in parts for row in part.inputs.tolist()],
            "targets": [row for part in parts for row in part.targets.tolist()],
            "micro_batch_size": hardware.micro_batch_size,
            "dropout_seeds": [dropout_seed(config.seed, step.number, n) for n in range(passes)],
        },
    )
    logger.info("what went into step %d is in %s", step.number, name)
    return session.folder.path / name


def _strict(value: float) -> float | str:
    """As JSON has it, which knows no infinity."""
    return value if math.isfinite(value) else str(value)
