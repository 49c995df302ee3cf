"""`lmft generate`: continue a text, or fill the masks in it."""

from argparse import Namespace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmft.config.compose import compose
from lmft.dataset.tokenizer import find_separator
from lmft.errors import UserError
from lmft.evaluation.generation import Sampling, continue_text, fill_masks
from lmft.hardware.device import find_hardware
from lmft.model.load import context_size, load_model
from lmft.model.mixed_precision import build_network
from lmft.objective import Objective
from lmft.output.sanitize import strip_control
from lmft.runs.run import Run, run_with_weights
from lmft.trainer.components import find_tokenizer

GUESSES = 3  # for a mask


def main(arguments: Namespace) -> None:
    """Run the command."""
    sampling = Sampling(arguments.tokens, arguments.temperature, arguments.top_p, arguments.seed)
    print(strip_control(generate(arguments.run, arguments.words, arguments.prompt, sampling)))


def generate(name: str | None, words: list[str], prompt: str, sampling: Sampling) -> str:
    """Return the prompt and its continuation, or with a line for each mask.

    Args:
        name: the folder or MLflow id of the run whose best weights answer; None: the model that
            the words name.
        words: overrides, as on the command line.
        prompt: the text to continue, or to fill.
        sampling: how to continue it.

    Raises:
        UserError: something in the config or the prompt can't be done.
    """
    run = Run(compose(words)) if name is None else run_with_weights(name, words)
    config = run.config
    if config.model.from_scratch:
        raise UserError("lmft generate needs trained weights; add run=FOLDER, or model=gpt2.")
    tokenizer = find_tokenizer(config, {})
    # A run read documents with its separator around them; any other model, as its tokenizer does.
    separator = "model" if name is None else config.dataset.separator
    ids = tokenize_prompt(prompt, config.objective, tokenizer, separator)
    hardware = find_hardware(config.hardware, config.trainer.batch_size)
    model = load_model(config.model, config.objective, tokenizer, config.seed)
    check_length(len(ids), sampling.tokens if config.objective.is_causal else 0, model)
    compute = build_network(model, hardware).compute_model.eval()
    with torch.random.fork_rng(devices=[]):
        if config.objective.is_causal:
            return prompt + continue_text(compute, tokenizer, ids, sampling)
        return "\n".join([prompt, *describe_guesses(compute, tokenizer, ids)])


def tokenize_prompt(
    prompt: str, objective: Objective, tokenizer: PreTrainedTokenizerBase, separator: str
) -> np.ndarray:
    """Return the prompt's ids (T,), with what surrounds documents.

    Raises:
        UserError: there is nothing to continue, or no mask to fill.
    """
    around = find_separator(separator, tokenizer)
    bare = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if objective.is_causal:
        ids = [*around.before, *bare] or list(around.between)
        if not ids:
            raise UserError('There is nothing to continue; add prompt="Once upon a time".')
        return np.array(ids, dtype=np.int64)
    objective.check(tokenizer)
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


def describe_guesses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: np.ndarray
) -> list[str]:
    """Return a line for each mask in `ids` (T,), with the most probable tokens."""
    masks: list[Any] = fill_masks(model, tokenizer, ids, GUESSES)
    return [
        f"{tokenizer.mask_token} {number}: "
        + ", ".join(f"{text or 'a space'} {share:.1%}" for text, share in guesses)
        for number, guesses in enumerate(masks, start=1)
    ]
