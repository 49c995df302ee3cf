"""A few lines of what a model makes of the validation text, to look at."""

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from lmft.dataset.batches import Batches, block_rng
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
        if batches.objective.target_shift:
            prompts = document_middles(batches, count, PROMPT_TOKENS)
            answers = continue_texts(model, batches.tokenizer, prompts)
            texts = [str(batches.tokenizer.decode(prompt)) for prompt in prompts]
            return [Sample(*pair) for pair in zip(texts, answers, strict=True)]
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


def continue_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: np.ndarray,
    sampling: Sampling = Sampling(),
) -> str:
    """The text that the model adds to `prompt` (T,)."""
    return continue_texts(model, tokenizer, [prompt], sampling)[0]


@torch.no_grad()
def continue_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[np.ndarray],
    sampling: Sampling = Sampling(),
) -> list[str]:
    """The texts that the model adds to `prompts` (T,) each; neighbours of one length go at once."""
    texts = []
    for length, some in groupby(prompts, key=len):
        inputs = torch.from_numpy(np.stack(list(some))).to(model.device)  # (B, T)
        ids = model.generate(  # type: ignore[operator]
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=sampling.tokens,
            do_sample=False,  # the dice are ours
            logits_processor=LogitsProcessorList(_drawing(sampling, len(inputs), model.device)),
            pad_token_id=tokenizer.eos_token_id or 0,
        )
        ends = model.generation_config.eos_token_id
        texts += [
            str(tokenizer.decode(until(ends, row), skip_special_tokens=True))
            for row in ids[:, length:].cpu().numpy()
        ]
    return texts


def until(ends: int | list[int] | None, ids: np.ndarray) -> np.ndarray:
    """The ids (T,) up to the first of `ends`: padding follows it, where neighbours went on."""
    found = np.flatnonzero(np.isin(ids, [] if ends is None else ends))
    return ids[: found[0] + 1] if len(found) else ids


def _drawing(sampling: Sampling, rows: int, device: torch.device) -> list[LogitsProcessor]:
    if sampling.temperature == 0:
        return []
    warpers = [TemperatureLogitsWarper(sampling.temperature), TopPLogitsWarper(sampling.top_p)]
    return [*warpers, Dice(sampling.seed, rows, device)]


class Dice(LogitsProcessor):
    """Draws a token for each row, with dice of its own: a text does not depend on its neighbours.

    Only the token that was drawn keeps a score.
    """

    def __init__(self, seed: int, rows: int, device: torch.device):
        self._dice = [torch.Generator(device).manual_seed(seed) for _ in range(rows)]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores (B, V) with one finite value a row."""
        pairs = zip(scores.softmax(dim=-1), self._dice, strict=True)
        drawn = torch.stack([row.multinomial(1, generator=dice) for row, dice in pairs])
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0)


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
    batch = batches.objective.batch(blocks, batches.tokenizer, [block_rng(SEED, 0, 0)])
    logits = model(input_ids=batch.inputs.to(model.device)).logits[0].cpu()
    asked = batch.targets[0] != IGNORED
    pairs = zip(batch.targets[0, asked], logits[asked].argmax(dim=-1), strict=True)

    def text(ids: Tensor) -> str:
        return str(batches.tokenizer.decode(ids)).strip()

    guesses = [f"{text(guess)} (was {text(true)})" for true, guess in pairs]
    return Sample(text(batch.inputs[0]), ", ".join(guesses))
