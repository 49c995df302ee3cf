"""What a run works with, made from its config and checked before anything starts."""

import logging
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from transformers import PreTrainedTokenizerBase

from lmft.config.compose import compose, recompose
from lmft.config.schema import CORPUS, RunConfig, Strategy
from lmft.dataset.batches import Batches
from lmft.dataset.splits import Split
from lmft.dataset.token_stream import Blocks, open_stream
from lmft.dataset.tokenizer import load_tokenizer, open_trained_tokenizer
from lmft.errors import UserError
from lmft.evaluation.scoring import check_evaluation
from lmft.hardware.allocator import keep_freed_memory
from lmft.hardware.device import Hardware, find_hardware
from lmft.model.load import context_size, load_model
from lmft.model.mixed_precision import Network, build_network
from lmft.runs.run_dir import RunFolder, find_run
from lmft.runs.run_id import model_label
from lmft.storage.hub import pinned_revision

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Components:
    """Everything that training and evaluation need."""

    hardware: Hardware
    tokenizer: PreTrainedTokenizerBase
    batches: dict[str, Batches]  # by split
    network: Network

    def describe(self) -> dict[str, str]:
        """What the choices came to, for a person."""
        streams = {name: some.blocks.stream for name, some in self.batches.items()}
        weights = sum(weight.numel() for weight in self.network.model.parameters())
        return {
            "dataset": ", ".join(
                f"{name} {len(stream.ids):,} tokens in {len(stream.ends):,} documents"
                for name, stream in streams.items()
            ),
            "model": f"{weights:,} weights, {len(self.tokenizer):,} tokens",
            "hardware": self.hardware.describe(),
        }


def compose_model(conf: Path, words: list[str]) -> tuple[DictConfig, RunFolder | None]:
    """The config of a run's best weights (`run=PLACE` among `words`), or of any model.

    Raises:
        UserError: there is no such run.
    """
    places = [word.removeprefix("run=") for word in words if word.startswith("run=")]
    words = [word for word in words if not word.startswith("run=")]
    if not places:
        return compose(conf, words), None
    run = find_run(places[-1], next((w[12:] for w in words if w.startswith("tracker.uri=")), None))
    composed = recompose(conf, run.path, words)
    weights = {"name": str(run.checkpoint), "label": run.path.name, "from_scratch": False}
    unset = dict.fromkeys(("tokenizer", "config", "dropout", "architecture"))
    composed.model = {**composed.model, **weights, **unset}
    return composed, run


def build_components(
    config: RunConfig, splits: dict[str, Split], precision: str | None = None
) -> Components:
    """Tokenize the splits and load the model.

    Args:
        config: the run.
        splits: of its dataset.
        precision: that the run was started in, where it goes on.

    Raises:
        UserError: something is missing, or two things don't fit each other.
    """
    hardware = find_hardware(config.hardware, config.trainer.batch_size, precision)
    tokenizer = find_tokenizer(config, splits)
    config.objective.check(tokenizer)
    check_evaluation(config.evaluation, config.dataset.block_size, config.objective)
    cache_root = Path(config.cache_root).expanduser()
    batches = {
        name: Batches(
            Blocks(
                open_stream(split, tokenizer, config.dataset.separator, cache_root),
                config.dataset.block_size,
            ),
            config.objective,
            tokenizer,
        )
        for name, split in splits.items()
    }
    for name, some in batches.items():
        if len(some) == 0:
            raise UserError(f"dataset.{name} has a single token, so nothing can be predicted.")
    model = load_model(config.model, config.objective, tokenizer, config.seed)
    check_context(config, context_size(model))
    network = build_network(model, hardware)
    # From here on: what reading a model took goes back. FSDP gathers tensors of many sizes.
    keep_freed_memory(large=config.hardware.strategy is not Strategy.fsdp)
    return Components(hardware, tokenizer, batches, network)


def check_context(config: RunConfig, most: int | None) -> None:
    """Refuse blocks and windows of more tokens than the model can read at once.

    Raises:
        UserError: there are such.
    """
    wanted = {
        "dataset.block_size": config.dataset.block_size,
        "evaluation.context": config.evaluation.context,
    }
    for knob, tokens in wanted.items():
        if most is not None and (tokens or 0) > most:
            raise UserError(
                f"{knob} is {tokens}, but model={model_label(config.model)} reads at most {most} "
                f"tokens at once; set {knob}={most} or less."
            )


def find_tokenizer(config: RunConfig, splits: dict[str, Split]) -> PreTrainedTokenizerBase:
    """The model's own tokenizer, another one, or one trained on the training split."""
    model = config.model
    if model.tokenizer == CORPUS:
        train = splits["train"]
        return open_trained_tokenizer(
            lambda: (text for text, _ in train.pieces()),
            train.digest(),
            model.vocab_size,
            Path(config.cache_root).expanduser(),
        )
    knob = "model.name" if model.tokenizer is None else "model.tokenizer"
    name = model.tokenizer or model.name
    assert name is not None
    if model.trust_remote_code:
        warn_of_remote_code(model.name or name)
    return load_tokenizer(
        name, pinned_revision(name, model.revision, knob), model.trust_remote_code
    )


def warn_of_remote_code(name: str) -> None:
    """Say loudly that code of strangers may run."""
    logger.warning(
        "model.trust_remote_code=true: Python code that comes with %s runs here, with all rights "
        "of yours.",
        name,
    )
