"""A few lines of what a model makes of the validation text, to look at."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmft.batches import Batches, roll
from lmft.objective import IGNORED

PROMPT_TOKENS = 12
NEW_TOKENS = 24
SEED = 0  # of the dice: the same at each call, so that what differs is the model


@dataclass(frozen=True)
class Sampling:
    """How a text is continued."""

    tokens: int = NEW_TOKENS  # at most
    temperature: float = 0.8  # 0: always the likeliest token
    top_p: float = 0.95  # drawn from the likeliest tokens that together have this probability
    seed: int = SEED


@dataclass(frozen=True)
class Sample:
    """What the model was given, and what it made of it."""

    prompt: str
    answer: str


def draw_samples(model: PreTrainedModel, batches: Batches, count: int = 3) -> list[Sample]:
    """Continuations (causal) or filled gaps (masked) of the starts of `count` documents."""
    model.eval()
    with torch.random.fork_rng(devices=[]):
        if batches.objective.ahead:
            return [
                Sample(
                    str(batches.tokenizer.decode(prompt)),
                    continue_text(model, batches.tokenizer, prompt),
                )
                for prompt in document_middles(batches, count, PROMPT_TOKENS)
            ]
        prompts = document_middles(batches, count, PROMPT_TOKENS + NEW_TOKENS)
        return [fill_gaps(model, batches, prompt) for prompt in prompts]


def document_middles(batches: Batches, count: int, tokens: int) -> list[np.ndarray]:
    """The ids (T,) of `tokens` from the middle of up to `count` documents, spread over the split.

    Documents begin with headings; the middle is where a model can show what it knows.
    """
    stream = batches.blocks.stream
    starts = np.concatenate([[0], stream.ends[:-1]])
    usable = np.flatnonzero(stream.ends - starts > 1)
    chosen = usable[np.unique(np.linspace(0, len(usable) - 1, count).astype(int))]
    firsts = np.maximum(starts, (starts + stream.ends - tokens) // 2)[chosen]
    return [
        np.array(stream.ids[first : min(first + tokens, end)], dtype=np.int64)
        for first, end in zip(firsts, stream.ends[chosen], strict=True)
    ]


@torch.no_grad()
def continue_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: np.ndarray,
    sampling: Sampling = Sampling(),
) -> str:
    """The text that the model adds to `prompt` (T,)."""
    inputs = torch.from_numpy(prompt)[None].to(model.device)
    torch.manual_seed(sampling.seed)
    dice = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    ids = model.generate(  # type: ignore[operator]
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=sampling.tokens,
        do_sample=sampling.temperature > 0,
        pad_token_id=tokenizer.eos_token_id or 0,
        **(dice if sampling.temperature > 0 else {}),
    )
    return str(tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True))


@torch.no_grad()
def fill_masks(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: np.ndarray, count: int
) -> list[list[tuple[str, float]]]:
    """For each mask token in `prompt` (T,) the `count` likeliest tokens and their probabilities."""
    inputs = torch.from_numpy(prompt)[None].to(model.device)
    logits = model(input_ids=inputs).logits[0, inputs[0] == tokenizer.mask_token_id]
    likeliest = logits.float().softmax(dim=-1).topk(count, dim=-1)
    return [
        [(str(tokenizer.decode([token])).strip(), share) for share, token in zip(*row, strict=True)]
        for row in zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)
    ]


@torch.no_grad()
def fill_gaps(model: PreTrainedModel, batches: Batches, prompt: np.ndarray) -> Sample:
    """What the model takes the hidden tokens of `prompt` (T,) for."""
    blocks = torch.from_numpy(prompt)[None]
    batch = batches.objective.batch(blocks, batches.tokenizer, [roll(SEED, 0, 0)])
    logits = model(input_ids=batch.inputs.to(model.device)).logits[0].cpu()
    asked = batch.targets[0] != IGNORED
    pairs = zip(batch.targets[0, asked], logits[asked].argmax(dim=-1), strict=True)

    def text(ids: Tensor) -> str:
        return str(batches.tokenizer.decode(ids)).strip()

    guesses = [f"{text(guess)} (was {text(true)})" for true, guess in pairs]
    return Sample(text(batch.inputs[0]), ", ".join(guesses))
