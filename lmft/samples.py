"""A few lines of what a model makes of the validation text, to look at."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmft.batches import Batches, roll
from lmft.hardware import Hardware
from lmft.objective import IGNORED

PROMPT_TOKENS = 12
NEW_TOKENS = 24
SEED = 0  # of the dice: the same at each call, so that what differs is the model


@dataclass(frozen=True)
class Sample:
    """What the model was given, and what it made of it."""

    prompt: str
    answer: str


def draw_samples(
    model: PreTrainedModel, batches: Batches, hardware: Hardware, count: int = 3
) -> list[Sample]:
    """Continuations (causal) or filled gaps (masked) of the starts of `count` documents."""
    model.eval()
    with torch.random.fork_rng(devices=[]), hardware.autocast():
        if batches.objective.ahead:
            return [
                Sample(
                    str(batches.tokenizer.decode(prompt)),
                    continue_text(model, batches.tokenizer, prompt, NEW_TOKENS),
                )
                for prompt in document_starts(batches, count, PROMPT_TOKENS)
            ]
        prompts = document_starts(batches, count, PROMPT_TOKENS + NEW_TOKENS)
        return [fill_gaps(model, batches, prompt) for prompt in prompts]


def document_starts(batches: Batches, count: int, tokens: int) -> list[np.ndarray]:
    """The ids (T,) of the first `tokens` of up to `count` documents, spread over the split."""
    stream = batches.blocks.stream
    starts = np.concatenate([[0], stream.ends[:-1]])
    usable = np.flatnonzero(stream.ends - starts > 1)
    chosen = usable[np.unique(np.linspace(0, len(usable) - 1, count).astype(int))]
    return [
        np.array(stream.ids[starts[i] : min(starts[i] + tokens, stream.ends[i])], dtype=np.int64)
        for i in chosen
    ]


@torch.no_grad()
def continue_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: np.ndarray, new_tokens: int
) -> str:
    """The text that the model adds to `prompt` (T,), drawn from the most likely 95 %."""
    inputs = torch.from_numpy(prompt)[None].to(model.device)
    torch.manual_seed(SEED)
    ids = model.generate(  # type: ignore[operator]
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=new_tokens,
        do_sample=True,
        temperature=0.8,
        top_p=0.95,
        top_k=0,
        pad_token_id=tokenizer.eos_token_id or 0,
    )
    return str(tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True))


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
