"""The tokenizer of a run, and what surrounds the texts that its model reads."""

import logging
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from lmft.adapter.attach import check_adapter
from lmft.config.model_knobs import CORPUS
from lmft.config.schema import RunConfig
from lmft.dataset.chat_template import read_template
from lmft.dataset.split import Split
from lmft.dataset.tokenizer import find_separator, load_tokenizer, open_trained_tokenizer
from lmft.model.load import silence_transformers
from lmft.storage.hub import find_base, pinned_revision

logger = logging.getLogger(__name__)


def find_tokenizer(config: RunConfig, splits: dict[str, Split]) -> PreTrainedTokenizerBase:
    """Load the model's own tokenizer or another one, or train one on the training split."""
    silence_transformers()
    model = config.model
    check_adapter(model, config.adapter)
    if model.tokenizer == CORPUS:
        train = splits["train"]
        trained = open_trained_tokenizer(
            lambda: (text for text, _ in train.pieces()),
            train.digest(),
            model.vocab_size,
            Path(config.cache_root).expanduser(),
        )
        return with_template(trained, config.dataset.chat_template)
    knob = "model.name" if model.tokenizer is None else "model.tokenizer"
    name = model.tokenizer or model.name
    assert name is not None
    if model.trust_remote_code:
        warn_about_remote_code(model.name or name)
    if (base := find_base(name)) and not (
        Path(name).expanduser() / "tokenizer_config.json"
    ).exists():
        name = base[0]  # an adapter without a tokenizer of its own
    loaded = load_tokenizer(
        name, pinned_revision(name, model.revision, knob), model.trust_remote_code
    )
    return with_template(loaded, config.dataset.chat_template)


def with_template(tokenizer: PreTrainedTokenizerBase, value: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer with the chat template that dataset.chat_template names."""
    if (template := read_template("dataset.chat_template", value)) is not None:
        tokenizer.chat_template = template
    return tokenizer


def tokens_before_prompt(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, ...] | None:
    """Return what a trained causal model expects before a prompt; None: what the tokenizer adds.

    Many tokenizers surround a text with special tokens, after which no text goes on.
    """
    own = find_separator("model", tokenizer)
    if config.objective.is_causal and (config.model.from_scratch or own.after):
        before = find_separator(config.dataset.separator, tokenizer).before
        return before if (before, ()) != (own.before, own.after) else None
    return None


def warn_about_remote_code(name: str) -> None:
    """Warn that code of third parties may run."""
    logger.warning(
        "model.trust_remote_code=true: Python code that comes with %s runs here, with all your "
        "permissions.",
        name,
    )
