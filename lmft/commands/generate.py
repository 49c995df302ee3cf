"""`lmft generate`: continue a text, or fill the masks in it; one prompt, or a file of them."""

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmft.commands.text_model import TextModel, open_model, tokenize_prompt
from lmft.config.dataset_knobs import DatasetConfig
from lmft.dataset.files import find_files
from lmft.dataset.readers import has_records, read_rows
from lmft.dataset.tokenizer import unescape
from lmft.errors import UserError, writable
from lmft.evaluation.generation import Sampling, continue_texts, fill_masks
from lmft.output.sanitize import strip_control
from lmft.storage.atomic import new_file

GUESSES = 3  # for a mask
AT_ONCE = 256  # prompts of a file, sorted by length to form batches


def main(arguments: Namespace) -> None:
    """Run the command.

    Raises:
        UserError: two knobs contradict each other, or something else can't be done.
    """
    sampling = read_sampling(arguments, arguments.n)
    if arguments.prompts is None:
        if arguments.out is not None:
            raise UserError("out= takes the answers to prompts=FILE; add it, or leave out= out.")
        texts = generate(arguments.run, arguments.words, arguments.prompt, sampling)
        print(strip_control("\n\n".join(texts)))
        return
    if arguments.prompt:
        raise UserError("prompt= and prompts= are both set; leave one of them out.")
    find_files(arguments.prompts)  # before the model is loaded
    opened = open_model(arguments.run, arguments.words)
    lines = answer_file(opened, arguments.prompts, sampling)
    if arguments.out is None:
        for line in lines:
            print(line, flush=True)
        return
    path = Path(arguments.out).expanduser().absolute()
    with writable("out", path), new_file(path) as temporary, temporary.open("w") as file:
        file.writelines(f"{line}\n" for line in lines)


def read_sampling(arguments: Namespace, n: int = 1) -> Sampling:
    """Return the settings that a line has.

    Raises:
        UserError: they contradict each other.
    """
    if n > 1 and arguments.temperature == 0:
        raise UserError(f"n={n} texts are the same one with temperature=0; raise it, or set n=1.")
    return Sampling(
        arguments.tokens,
        arguments.temperature,
        arguments.top_p,
        arguments.seed,
        arguments.top_k,
        unescape(arguments.stop),
        n,
    )


def generate(name: str | None, words: list[str], prompt: str, sampling: Sampling) -> list[str]:
    """Return the prompt with each of its continuations, or with a line for each mask.

    Args:
        name: the folder or MLflow id of the run whose best weights answer; None: the model that
            the words name.
        words: overrides, as on the command line.
        prompt: the text to continue, or to fill.
        sampling: how to continue it.

    Raises:
        UserError: something in the config or the prompt can't be done.
    """
    opened = open_model(name, words)
    ids = tokenize_prompt(opened, prompt, sampling.tokens)
    (answers,) = answer(opened, [ids], sampling)
    if opened.objective.is_causal:
        return [prompt + text for text in answers]
    mask = str(opened.tokenizer.mask_token)
    guesses = [describe_guesses(mask, number, row) for number, row in enumerate(answers, start=1)]
    return ["\n".join([prompt, *guesses])]


def answer_file(opened: TextModel, where: str, sampling: Sampling) -> Iterator[str]:
    """Yield a line of JSON for each prompt of a file: the prompt, and its continuations or masks.

    Raises:
        UserError: a prompt can't be read, continued or filled; before the first line.
    """
    prompts = list(read_prompts(where, opened.dataset))
    ids = []
    for number, prompt in enumerate(prompts, start=1):
        try:
            ids.append(tokenize_prompt(opened, prompt, sampling.tokens))
        except UserError as error:
            raise UserError(f"Prompt {number} of {where}: {error}") from error
    name = "continuations" if opened.objective.is_causal else "masks"
    for start in range(0, len(prompts), AT_ONCE):
        rows = sorted(range(start, min(start + AT_ONCE, len(prompts))), key=lambda i: len(ids[i]))
        found = answer(opened, [ids[row] for row in rows], sampling)
        answers = dict(zip(rows, found, strict=True))
        for row in sorted(rows):
            yield json.dumps({"prompt": prompts[row], name: answers[row]})


def read_prompts(where: str, dataset: DatasetConfig) -> Iterator[str]:
    """Yield the lines of text files that are not blank, or the texts of records."""
    for path in find_files(where):
        lines = not has_records(path)
        for row in read_rows(path, dataset.text_column, dataset.errors, dataset.delimiter):
            prompt = row.rstrip("\n") if lines else row
            if prompt.strip() or not lines:
                yield prompt


def answer(opened: TextModel, prompts: list[np.ndarray], sampling: Sampling) -> list[list[Any]]:
    """Return for each prompt (T,) its continuations; of a masked model, the guesses by mask."""
    model, tokenizer = opened.model, opened.tokenizer
    with torch.random.fork_rng(devices=[]):
        if not opened.objective.is_causal:
            return [fill_masks(model, tokenizer, prompt, GUESSES) for prompt in prompts]
        texts = continue_texts(model, tokenizer, prompts, sampling)
    return [texts[i : i + sampling.n] for i in range(0, len(texts), sampling.n)]


def describe_guesses(mask: str, number: int, guesses: list[tuple[str, float]]) -> str:
    """Return a line with the most probable tokens of the mask `number`."""
    shares = ", ".join(f"{text or 'a space'} {share:.1%}" for text, share in guesses)
    return f"{mask} {number}: {shares}"
