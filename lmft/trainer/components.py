"""Build the components of a run from its config, and check that they fit each other."""

import inspect
import logging
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmft.config.dataset_knobs import DatasetConfig, LongDocuments, Packing
from lmft.config.schema import RunConfig
from lmft.config.training_knobs import Strategy
from lmft.dataset.batches import Batches
from lmft.dataset.document_blocks import DocumentBlocks, cut_blocks
from lmft.dataset.overview.describe import count_texts
from lmft.dataset.split import Split
from lmft.dataset.token_stream import check_has_text, open_stream
from lmft.dataset.tokenizer import find_separator
from lmft.errors import UserError
from lmft.evaluation.windows import check_evaluation
from lmft.hardware.allocator import keep_freed_memory
from lmft.hardware.device import FIRST_START, Choices, Hardware, find_hardware
from lmft.model.chunks import LARGE_VOCABULARY
from lmft.model.load import load_model
from lmft.model.mixed_precision import build_network
from lmft.model.network import Network
from lmft.model.probe import check_documents, context_size
from lmft.output.terminal import counted
from lmft.runs.run_id import model_label
from lmft.trainer.run_tokenizer import find_tokenizer

logger = logging.getLogger(__name__)

# FLOPs of a run, 6 for each weight and token, from which compile=auto compiles: some minutes on an
# H100, where compiled layers take about 5 % less time and compiling them takes about 10 s.
COMPILED_FROM = 1e17
FEW_HELD_OUT = 5  # documents; with fewer, a validation loss is about these alone


@dataclass(frozen=True)
class Components:
    """Everything that training and evaluation need."""

    hardware: Hardware
    tokenizer: PreTrainedTokenizerBase
    batches: dict[str, Batches]  # by split
    network: Network

    def describe_text(self) -> dict[str, str]:
        """Return what was read of each split, for display."""
        streams = {name: batches.blocks.stream for name, batches in self.batches.items()}
        return {name: counts.describe() for name, counts in count_texts(streams).items()}

    def describe(self) -> dict[str, str]:
        """Return the sizes of dataset and model, and the hardware, for display."""
        streams = {name: batches.blocks.stream for name, batches in self.batches.items()}
        weights = list(self.network.model.parameters())
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        total = sum(weight.numel() for weight in weights)
        size = f"{total:,} weights"
        if trained < total:
            size += f", {trained:,} of them trained"
        blocks = ", ".join(
            f"{name} {some.blocks.describe()}"
            for name, some in self.batches.items()
            if isinstance(some.blocks, DocumentBlocks)
        )
        return {
            "dataset": ", ".join(
                f"{name} {counted(len(stream.ids), 'token')} in "
                f"{counted(len(stream.ends), 'document')}"
                for name, stream in streams.items()
            ),
            **({"blocks": blocks} if blocks else {}),
            "model": f"{size}, {len(self.tokenizer):,} tokens",
            "hardware": self.hardware.describe(),
        }


def build_components(
    config: RunConfig,
    splits: dict[str, Split],
    saved: Choices = FIRST_START,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Components:
    """Tokenize the splits and load the model.

    Args:
        config: the run's config.
        splits: of its dataset.
        saved: what auto stood for when the run was first started, if it is resumed.
        tokenizer: that `find_tokenizer` has loaded, if it has been called.

    Raises:
        UserError: something is missing, or two components do not fit each other.
    """
    hardware = find_hardware(config.hardware, config.trainer.batch_size, saved)
    if tokenizer is None:
        tokenizer = find_tokenizer(config, splits)
    config.objective.check(tokenizer)
    check_evaluation(config.evaluation, config.dataset.block_size, config.objective, tokenizer)
    batches = {name: open_batches(config, split, tokenizer) for name, split in splits.items()}
    check_long(config.dataset, batches)
    warn_of_few_documents(splits, batches)
    model = load_model(
        config.model, config.objective, tokenizer, config.seed, config.adapter, hardware.dtype
    )
    if any(some.are_apart for some in batches.values()):
        check_documents(config.model, model)
    check_context(config, context_size(model))
    if hardware.compile is None:
        hardware.compile = "train" in batches and is_long(config, model, batches["train"])
    network = build_network(model, hardware)
    # Only now, so that memory used for loading is returned. FSDP gathers tensors of many sizes, and
    # logits as large as all else fragment the memory that other tensors leave free.
    is_sharded = config.hardware.strategy is Strategy.fsdp
    is_large = model.config.get_text_config().vocab_size > LARGE_VOCABULARY
    keep_freed_memory(large=not (is_sharded or is_large))
    return Components(hardware, tokenizer, batches, network)


def is_long(config: RunConfig, model: PreTrainedModel, train: Batches) -> bool:
    """Return whether a run is so long that compiling its layers takes less time than it saves."""
    steps = config.trainer.steps(train.steps_per_epoch(config.trainer.batch_size))
    weights = sum(weight.numel() for weight in model.parameters())
    return 6 * weights * config.tokens_per_step * steps >= COMPILED_FROM


def open_batches(config: RunConfig, split: Split, tokenizer: PreTrainedTokenizerBase) -> Batches:
    """Tokenize a split, unless the cache has it, and cut it into blocks.

    Raises:
        UserError: it has too little text.
    """
    dataset, cache_root = config.dataset, Path(config.cache_root).expanduser()
    stream = open_stream(split, tokenizer, dataset.separator, cache_root)
    check_has_text(split, stream, find_separator(dataset.separator, tokenizer))
    blocks = cut_blocks(dataset, split, stream, tokenizer)
    batches = Batches(blocks, config.objective, tokenizer)
    takes = inspect.signature(config.objective.batch).parameters
    has_bits = stream.learnt is not None or isinstance(blocks, DocumentBlocks)
    if has_bits and "learnt" not in takes:
        raise UserError(
            f"objective={type(config.objective).__name__} can't learn a part of a block alone; "
            "add `learnt` to its method batch, or set dataset.learn=all dataset.packing=stream "
            "dataset.attention=block."
        )
    if len(batches) == 0:
        raise UserError(
            f"dataset.{split.name} has nothing that can be predicted: no document with two tokens, "
            f"or none that fits into a block of {dataset.block_size}; choose more text."
            if isinstance(blocks, DocumentBlocks)
            else f"dataset.{split.name} has a single token, so nothing can be predicted; choose "
            "more text."
        )
    return batches


def check_long(config: DatasetConfig, batches: dict[str, Batches]) -> None:
    """Check that dataset.long has an effect.

    Raises:
        UserError: no split has documents that are packed whole.
    """
    rules = [some.blocks.rule for some in batches.values() if hasattr(some.blocks, "rule")]
    if config.long is not LongDocuments.split and not any(
        rule.packing is Packing.documents for rule in rules
    ):
        raise UserError(
            f"dataset.long is {config.long.value}, but the stream of documents is cut wherever a "
            "block is full; add dataset.packing=documents."
        )


def warn_of_few_documents(splits: dict[str, Split], batches: dict[str, Batches]) -> None:
    """Warn if only a handful of documents are held out for validation."""
    validation = splits.get("validation")
    if validation is None or not validation.held_out:
        return
    documents = len(batches["validation"].blocks.stream.ends)
    if documents < FEW_HELD_OUT:
        limit = "max_documents" if documents == validation.max_documents else "validation_fraction"
        logger.warning(
            "Only %s held out for validation, so its loss says little about other texts; raise "
            "dataset.%s, or set dataset.validation=PATH.",
            f"{counted(documents, 'document')} {'is' if documents == 1 else 'are'}",
            limit,
        )


def check_context(config: RunConfig, limit: int | None) -> None:
    """Check that blocks and evaluation windows fit into the model's context of `limit` tokens.

    Raises:
        UserError: they are longer.
    """
    lengths = {
        "dataset.block_size": config.dataset.block_size,
        "evaluation.context": config.evaluation.context,
    }
    for knob, tokens in lengths.items():
        if limit is not None and (tokens or 0) > limit:
            raise UserError(
                f"{knob} is {tokens}, but model={model_label(config.model)} reads at most {limit} "
                f"tokens at once; set {knob}={limit} or less."
            )
