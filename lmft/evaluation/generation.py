"""Generate text: sample continuations of prompts, or fill masks."""

from collections.abc import Sequence
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
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from lmft.dataset.batches import Batches, block_rng
from lmft.objective import IGNORED

PROMPT_TOKENS = 12
NEW_TOKENS = 24
LONGEST_WORD = 16  # tokens
BATCH = 32  # texts continued at once, at most
SEED = 0  # fixed, so that samples before and after training differ by the model alone


@dataclass(frozen=True)
class Sampling:
    """Settings of the continuation of a text."""

    tokens: int = NEW_TOKENS  # at most
    temperature: float = 0.8  # 0: greedy, always the most probable token
    top_p: float = 0.95  # nucleus sampling (Holtzman et al. 2020)
    seed: int = SEED
    top_k: int = 0  # sample from so many tokens (Fan et al. 2018); 0: from all
    stop: str = ""  # the text ends before it
    n: int = 1  # continuations of each prompt; the one at index i has the seed `seed + i`
    end_of_turn: str = ""  # of a chat template, where it is ordinary text; the text ends before it

    @property
    def stops(self) -> list[str]:
        """The texts before which a continuation ends."""
        return [text for text in (self.stop, self.end_of_turn) if text]


@dataclass(frozen=True)
class Sample:
    """A prompt, and what the model answered."""

    prompt: str
    answer: str


def draw_samples(model: PreTrainedModel, batches: Batches, count: int = 3) -> list[Sample]:
    """Return continuations (causal) or filled masks (masked) of texts from `count` documents.

    There are fewer, or none, if too few documents have two tokens.
    """
    model.eval()
    with torch.random.fork_rng(devices=[]):
        if batches.objective.is_causal:
            prompts = document_middles(batches, count, PROMPT_TOKENS)
            answers = continue_texts(model, batches.tokenizer, prompts) if prompts else []
            texts = [str(batches.tokenizer.decode(prompt)) for prompt in prompts]
            return [Sample(*pair) for pair in zip(texts, answers, strict=True)]
        prompts = document_middles(batches, count, PROMPT_TOKENS + NEW_TOKENS)
        return [fill_hidden_tokens(model, batches, prompt) for prompt in prompts]


def document_middles(batches: Batches, count: int, tokens: int) -> list[np.ndarray]:
    """Return about `tokens` ids (T,) from the middle of each of up to `count` documents of a split.

    The middle, because documents often begin with headings. Whole words, where there are spaces.
    """
    stream = batches.blocks.stream
    starts = np.concatenate([[0], stream.ends[:-1]])
    usable = np.flatnonzero(stream.ends - starts > 1)
    if len(usable) == 0:
        return []
    chosen = usable[np.unique(np.linspace(0, len(usable) - 1, count).astype(int))]
    firsts = np.maximum(starts, (starts + stream.ends - tokens) // 2)[chosen]
    parts = []
    for start, first, end in zip(starts[chosen], firsts, stream.ends[chosen], strict=True):
        last = min(first + tokens, end)
        if first > start:
            first = word_start(stream.ids, first, start, batches.tokenizer)
        if last < end:
            last = word_start(stream.ids, last, first, batches.tokenizer)
        parts.append(np.array(stream.ids[first:last], dtype=np.int64))
    return parts


def word_start(ids: np.ndarray, last: int, first: int, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the last token after `first`, up to `last`, that begins a word; `last` if none does.

    A word begins with a space, or after one.
    """
    for start in range(last, max(first, last - LONGEST_WORD), -1):
        before = str(tokenizer.decode(ids[start - 1 : start]))
        both = str(tokenizer.decode(ids[start - 1 : start + 1]))
        if before[-1:].isspace() or both[len(before) :][:1].isspace():
            return start
    return last


@torch.no_grad()
def continue_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[np.ndarray],
    sampling: Sampling = Sampling(),
    streamer: BaseStreamer | None = None,
) -> list[str]:
    """Return `sampling.n` continuations of the first of `prompts` (T,), of the second, and so on.

    Adjacent prompts of equal length form batches. A streamer gets the tokens of a single text.
    """
    rows = [(prompt, sampling.seed + i) for prompt in prompts for i in range(sampling.n)]
    texts = []
    for length, group in groupby(rows, key=lambda row: len(row[0])):
        equal = list(group)
        for start in range(0, len(equal), BATCH):
            batch, seeds = zip(*equal[start : start + BATCH], strict=True)
            ids = _generate(model, tokenizer, np.stack(batch), seeds, sampling, streamer)
            for row in ids:
                new = cut_after(end_tokens(model), row[length:])
                texts.append(cut_at(sampling.stops, decode_after(row[:length], new, tokenizer)))
    return texts


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: np.ndarray,
    seeds: Sequence[int],
    sampling: Sampling,
    streamer: BaseStreamer | None,
) -> np.ndarray:
    """Return the prompts (B, T) with new tokens after them, padded to the longest row."""
    inputs = torch.from_numpy(prompts).to(model.device)
    stop = {"stop_strings": sampling.stops, "tokenizer": tokenizer} if sampling.stops else {}
    ids = model.generate(  # type: ignore[operator]
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=sampling.tokens,
        do_sample=False,  # SeededSampling samples
        logits_processor=_logits_processors(sampling, seeds, model.device),
        pad_token_id=tokenizer.eos_token_id or 0,
        streamer=streamer,
        **stop,
    )
    return np.asarray(ids.cpu().numpy())


def cut_at(stops: list[str], text: str) -> str:
    """Return what is before the first of `stops` in a text; the whole text if it has none."""
    ends = [text.find(stop) for stop in stops if stop in text]
    return text[: min(ends, default=len(text))]


def decode_after(
    prompt: np.ndarray, continuation: np.ndarray, tokenizer: PreTrainedTokenizerBase
) -> str:
    """Return the text of a continuation (T,), decoded together with its prompt (S,).

    Alone, a SentencePiece tokenizer would drop the space that it begins with.
    """

    def decode(ids: np.ndarray) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    start, whole = decode(prompt), decode(np.concatenate([prompt, continuation]))
    return whole.removeprefix(start) if whole.startswith(start) else decode(continuation)


def end_tokens(model: PreTrainedModel) -> list[int]:
    """Return the ids of the tokens after which the model generates no more."""
    eos = model.generation_config.eos_token_id
    return eos if isinstance(eos, list) else [] if eos is None else [eos]


def cut_after(ends: list[int], ids: np.ndarray) -> np.ndarray:
    """Cut ids (T,) after the first of the tokens `ends`: padding to the longest row follows it."""
    found = np.flatnonzero(np.isin(ids, ends))
    return ids[: found[0] + 1] if len(found) else ids


def _logits_processors(
    sampling: Sampling, seeds: Sequence[int], device: torch.device
) -> LogitsProcessorList:
    if sampling.temperature == 0:
        return LogitsProcessorList()
    top_k = [TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    return LogitsProcessorList(
        [
            TemperatureLogitsWarper(sampling.temperature),
            *top_k,
            TopPLogitsWarper(sampling.top_p),
            SeededSampling(seeds, device),
        ]
    )


class SeededSampling(LogitsProcessor):
    """Samples each row with a generator of its own, so that a text does not depend on the batch.

    Only the sampled token keeps a finite score.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device):
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (B, V) with one finite value per row."""
        rows = zip(scores.softmax(dim=-1), self._generators, strict=True)
        tokens = torch.stack([row.multinomial(1, generator=generator) for row, generator in rows])
        return torch.full_like(scores, -torch.inf).scatter(1, tokens, 0)


@torch.no_grad()
def fill_masks(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: np.ndarray, count: int
) -> list[list[tuple[str, float]]]:
    """Return the `count` most probable tokens, and their probabilities, of each mask in `prompt`.

    `prompt` is (T,).
    """
    inputs = torch.from_numpy(prompt)[None].to(model.device)
    logits = model(input_ids=inputs).logits[0, inputs[0] == tokenizer.mask_token_id]
    top = logits.float().softmax(dim=-1).topk(count, dim=-1)
    return [
        [(str(tokenizer.decode([token])).strip(), share) for share, token in zip(*row, strict=True)]
        for row in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    ]


@torch.no_grad()
def fill_hidden_tokens(model: PreTrainedModel, batches: Batches, prompt: np.ndarray) -> Sample:
    """Hide tokens of `prompt` (T,) and return the model's guesses."""
    blocks = torch.from_numpy(prompt)[None]
    batch = batches.objective.batch(blocks, batches.tokenizer, [block_rng(SEED, 0, 0)])
    logits = model(input_ids=batch.inputs.to(model.device)).logits[0].cpu()
    hidden = batch.targets[0] != IGNORED
    pairs = zip(batch.targets[0, hidden], logits[hidden].argmax(dim=-1), strict=True)

    def text(ids: Tensor) -> str:
        return str(batches.tokenizer.decode(ids)).strip()

    guesses = [f"{text(guess)} (was {text(true)})" for true, guess in pairs]
    return Sample(text(batch.inputs[0]), ", ".join(guesses))
