"""The validation loss before step 1: scored once for the same weights, then read from the cache.

The jobs of a sweep, and every new launch of a run that failed early, begin from the same weights.
"""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from lmft.config.training_knobs import Strategy
from lmft.metrics import TokenLoss
from lmft.output.bars import AnyBars
from lmft.runs.run_id import NUMERICS
from lmft.signals import raise_deferred
from lmft.storage.atomic import read_json, write_json
from lmft.storage.cache import build_once
from lmft.storage.checksums import is_intact
from lmft.storage.hashing import digest
from lmft.trainer.evaluate import find_conditions
from lmft.trainer.session import Session, score_split

logger = logging.getLogger(__name__)

LOSS = "loss.json"  # in the cached folder: nats and targets


def find_baseline(session: Session, bars: AnyBars) -> TokenLoss:
    """Return the validation loss of the weights that a run begins with; all ranks get it.

    Of several jobs that need the same, one scores and the others wait for it.

    Raises:
        FloatingPointError: the loss is not finite.
        Interrupted: a signal arrived, in a single process.
    """
    group = session.process_group

    def score() -> TokenLoss:
        return score_split("validation", session, bars).loss

    if not can_be_known(session):
        return score()
    if group.rank > 0:  # rank 0 alone looks into the cache
        known = group.share()
        return score() if known is None else TokenLoss(*known)
    folder = find_folder(session)
    if not (is_writable(folder) or is_intact(folder)):
        group.share(None)
        return score()
    scored: list[TokenLoss] = []

    def fill(temporary: Path) -> None:
        group.share(None)
        scored.append(score())
        write_json(temporary / LOSS, vars(scored[0]))

    build_once(folder, fill, raise_deferred if group.size == 1 else lambda: None)
    if scored:
        return scored[0]
    known = read_json(folder / LOSS)
    group.share([known["nats"], known["targets"]])
    logger.info("the validation loss before step 1 was already scored: %s", folder)
    return TokenLoss(**known)


def can_be_known(session: Session) -> bool:
    """Return whether all that decides the loss can be hashed in one process."""
    config = session.run.config
    return config.hardware.strategy is not Strategy.fsdp and not config.model.trust_remote_code


def is_writable(folder: Path) -> bool:
    """Check that the cache can be written: one that others share may be there to read only."""
    existing = next(path for path in folder.parents if path.exists())
    return os.access(existing, os.W_OK)


def find_folder(session: Session) -> Path:
    """Return the cached folder of the loss, named by a hash of everything that decides its bits."""
    run, components = session.run, session.components
    hardware, batches = components.hardware, components.batches["validation"]
    conditions = find_conditions(run, run.splits["validation"], components.tokenizer)
    inputs = [
        describe_model(components.network.model),
        conditions.fingerprint,
        batches.blocks.stream.digest,
        [hardware.describe(), torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()],
        [hardware.compile, hardware.micro_batch_size],
        [NUMERICS, torch.__version__, transformers.__version__],
    ]
    root = Path(run.config.cache_root).expanduser()
    return root / "baselines" / digest(inputs)[:32]


def describe_model(model: PreTrainedModel) -> list[Any]:
    """Return the model's class, its config, and a hash of its weights: 0.3 s for 500 MB."""
    config = json.loads(model.config.to_json_string(use_diff=False))
    config.pop("_name_or_path", None)  # the weights count, not where they came from
    weights = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        array = tensor.detach().cpu().contiguous()
        weights.update(f"{name} {array.dtype} {list(array.shape)}".encode())
        weights.update(array.flatten().view(torch.uint8).numpy())
    as_text = json.dumps(config, sort_keys=True)  # it may have infinities, which digest refuses
    attention = model.config._attn_implementation
    return [type(model).__name__, as_text, attention, weights.hexdigest()]
