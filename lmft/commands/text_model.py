"""A model that is ready to continue texts or to fill masks, and its prompts as token ids."""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmft.config.compose import compose_run
from lmft.config.dataset_knobs import DatasetConfig
from lmft.dataset.tokenizer import find_separator
from lmft.errors import UserError
from lmft.hardware.device import find_hardware
from lmft.model.load import load_model
from lmft.model.mixed_precision import build_network
from lmft.model.probe import context_size
from lmft.objective import Objective
from lmft.runs.run import Run, run_with_weights
from lmft.trainer.run_tokenizer import find_tokenizer


@dataclass(frozen=True)
class TextModel:
    """A model that is ready to answer prompts."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    objective: Objective
    separator: str  # as dataset.separator: what surrounds a prompt
    dataset: DatasetConfig


def open_model(name: str | None, words: list[str]) -> TextModel:
    """Return the best weights of the run `name`, or the model that the words name.

    Raises:
        UserError: there is none, or it has no trained weights.
    """
    run = Run(*compose_run(words)) if name is None else run_with_weights(name, words)
    config = run.config
    if config.model.from_scratch:
        raise UserError("Texts need trained weights; add run=FOLDER, or model=gpt2.")
    tokenizer = find_tokenizer(config, {})
    hardware = find_hardware(config.hardware, config.trainer.batch_size)
    model = load_model(
        config.model, config.objective, tokenizer, config.seed, config.adapter, hardware.dtype
    )
    compute = build_network(model, hardware).compute_model.eval()
    # A run read documents with its separator around them; any other model, as its tokenizer does.
    separator = "model" if name is None else config.dataset.separator
    return TextModel(compute, tokenizer, config.objective, separator, config.dataset)


def tokenize_prompt(opened: TextModel, prompt: str, new: int) -> np.ndarray:
    """Return the prompt's ids (T,), with what surrounds documents.

    Args:
        opened: the model.
        prompt: the text to continue or to fill.
        new: tokens that a continuation may have.

    Raises:
        UserError: there is nothing to continue, no mask to fill, or no room for the new tokens.
    """
    tokenizer = opened.tokenizer
    around = find_separator(opened.separator, tokenizer)
    bare = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if opened.objective.is_causal:
        ids = [*around.before, *bare] or list(around.between)
        if not ids:
            raise UserError('There is nothing to continue; add prompt="Once upon a time".')
        check_length(len(ids), new, opened.model)
        return np.array(ids, dtype=np.int64)
    opened.objective.check(tokenizer)
    if tokenizer.mask_token_id not in bare:
        raise UserError(
            f"A masked model fills {tokenizer.mask_token}; put it into the prompt, as in "
            f'prompt="The cat {tokenizer.mask_token} on the mat."'
        )
    check_length(len(bare) + len(around.before) + len(around.after), 0, opened.model)
    return np.array([*around.before, *bare, *around.after], dtype=np.int64)


def check_length(prompt: int, new: int, model: PreTrainedModel) -> None:
    """Check that prompt and new tokens fit into the model's context.

    Raises:
        UserError: they do not.
    """
    context = context_size(model)
    if context is None or prompt + new <= context:
        return
    room = context - prompt
    way_out = f"set tokens={room} or less" if new and room > 0 else "shorten the prompt"
    raise UserError(
        f"The prompt's {prompt} tokens{f' and {new} new ones' if new else ''} are more than the "
        f"{context} that the model reads at once; {way_out}."
    )
