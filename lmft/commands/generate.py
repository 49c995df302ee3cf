"""The story of `lmft generate`: continue a text, or fill the masks in it."""

import math
from pathlib import Path
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

KNOBS = {"prompt": "", "tokens": "50", "temperature": "0.8", "top_p": "0.95", "seed": "0"}

GUESSES = 3  # for a mask


def tell(words: list[str], conf: Path) -> None:
    """The command: `lmft generate run=RUN | model=... prompt=TEXT [KNOB=VALUE ...]`."""
    given = dict(word.partition("=")[::2] for word in words if word.partition("=")[0] in KNOBS)
    rest = [word for word in words if word.partition("=")[0] not in KNOBS]
    sampling = read_sampling(KNOBS | given)
    prompt = given.get("prompt", "")
    composed, run = compose_model(conf, rest)
    config, _ = read_config(composed)
    if config.model.from_scratch:
        raise UserError("lmft generate needs trained weights; add run=FOLDER, or model=gpt2.")
    tokenizer = find_tokenizer(config, {})
    # A run read documents as its separator had them; any other model as its tokenizer wraps them.
    ids = tokenize_prompt(prompt, config, tokenizer, config.dataset.separator if run else "model")
    hardware = find_hardware(config.hardware, config.trainer.batch_size)
    model = load_model(config.model, config.objective, tokenizer, config.seed)
    check_length(len(ids), sampling.tokens if config.objective.target_shift else 0, model)
    compute = build_network(model, hardware).compute.eval()
    print(answer(prompt, ids, config, sampling, compute, tokenizer))


def read_sampling(values: dict[str, str]) -> Sampling:
    """How to draw, from the command's words."""
    return Sampling(
        tokens=int(read_number(values, "tokens", 1, 1_000_000, int)),
        temperature=read_number(values, "temperature", 0, 100),
        top_p=read_number(values, "top_p", 1e-6, 1),
        seed=int(read_number(values, "seed", 0, 2**63 - 1, int)),
    )


def read_number(
    values: dict[str, str],
    knob: str,
    low: float,
    high: float,
    kind: type[int] | type[float] = float,
) -> float:
    """The number that `knob` was set to.

    Raises:
        UserError: it is none, or out of range.
    """
    try:
        number = kind(values[knob])
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise UserError(f"{knob} must be a number from {low:g} to {high:g}, not {values[knob]!r}.")
    return number


def tokenize_prompt(
    prompt: str, config: RunConfig, tokenizer: PreTrainedTokenizerBase, separator: str
) -> np.ndarray:
    """The prompt's ids (T,), with what stood around documents.

    Raises:
        UserError: there is nothing to begin with, or no mask to fill.
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
    """Refuse what does not fit into the model's context."""
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
    """The prompt and its continuation, or a line for each mask."""
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
