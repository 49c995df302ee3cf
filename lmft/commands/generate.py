"""`lmft generate`: continue a text, or fill the masks in it."""

from argparse import Namespace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmft.config.build import read_config
from lmft.config.schema import RunConfig
from lmft.dataset.tokenizer import find_separator
from lmft.errors import UserError
from lmft.evaluation.generation import Sampling, continue_text, fill_masks
from lmft.hardware.device import find_hardware
from lmft.model.load import context_size, load_model
from lmft.model.mixed_precision import build_network
from lmft.output.sanitize import strip_control
from lmft.trainer.components import compose_model, find_tokenizer

GUESSES = 3  # for a mask


def main(arguments: Namespace) -> None:
    """Run the command."""
    prompt = arguments.prompt
    composed, run = compose_model(arguments.run, arguments.words)
    config, _ = read_config(composed)
    if config.model.from_scratch:
        raise UserError("lmft generate needs trained weights; add run=FOLDER, or model=gpt2.")
    tokenizer = find_tokenizer(config, {})
    # A run read documents with its separator around them; any other model, as its tokenizer does.
    ids = tokenize_prompt(prompt, config, tokenizer, config.dataset.separator if run else "model")
    hardware = find_hardware(config.hardware, config.trainer.batch_size)
    model = load_model(config.model, config.objective, tokenizer, config.seed)
    sampling = Sampling(arguments.tokens, arguments.temperature, arguments.top_p, arguments.seed)
    check_length(len(ids), sampling.tokens if config.objective.target_shift else 0, model)
    compute = build_network(model, hardware).compute_model.eval()
    print(answer(prompt, ids, config, sampling, compute, tokenizer))


def tokenize_prompt(
    prompt: str, config: RunConfig, tokenizer: PreTrainedTokenizerBase, separator: str
) -> np.ndarray:
    """Return the prompt's ids (T,), with what surrounds documents.

    Raises:
        UserError: there is nothing to continue, or no mask to fill.
    """
    around = find_separator(separator, tokenizer)
    bare = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if config.objective.target_shift:
        ids = [*around.before, *bare] or list(around.between)
        if not ids:
            raise UserError('There is nothing to continue; add prompt="Once upon a time".')
        return np.array(ids, dtype=np.int64)
    config.objective.check(tokenizer)
    if tokenizer.mask_token_id not in bare:
        raise UserError(
            f"A masked model fills {tokenizer.mask_token}; put it into the prompt, as in "
            f'prompt="The cat {tokenizer.mask_token} on the mat."'
        )
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


def answer(
    prompt: str,
    ids: np.ndarray,
    config: RunConfig,
    sampling: Sampling,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> str:
    """Return the prompt and its continuation, or a line for each mask."""
    with torch.random.fork_rng(devices=[]):
        if config.objective.target_shift:
            return strip_control(prompt + continue_text(model, tokenizer, ids, sampling))
        masks: list[Any] = fill_masks(model, tokenizer, ids, GUESSES)
    lines = [
        f"{tokenizer.mask_token} {number}: "
        + ", ".join(f"{text or 'a space'} {share:.1%}" for text, share in guesses)
        for number, guesses in enumerate(masks, start=1)
    ]
    return strip_control("\n".join([prompt, *lines]))
