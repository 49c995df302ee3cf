"""`lmft chat`: talk with a model in the terminal, or line by line through a pipe."""

import signal
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jinja2 import TemplateError

from lmft.commands.generate import read_sampling
from lmft.commands.text_model import TextModel, open_model
from lmft.commands.words import as_words
from lmft.dataset.tokenizer import find_separator
from lmft.errors import Interrupted, UserError
from lmft.evaluation.generation import Sampling, continue_texts
from lmft.evaluation.text_streamer import TextStreamer
from lmft.model.load import context_size
from lmft.output.sanitize import strip_control

PROMPT = "> "


def main(arguments: Namespace) -> None:
    """Run the command.

    Raises:
        UserError: the model can't answer.
    """
    name, words = choose_model(arguments)
    opened = open_model(name, words)
    if not opened.objective.is_causal:
        raise UserError("lmft chat needs a causal model; lmft generate fills masks.")
    sampling = read_sampling(arguments)
    turns: list[tuple[str, str]] = []
    try:
        for line in read_lines(opened):
            try:
                turns.append((line, answer(opened, turns, line, sampling)))
            except UserError as error:  # of this line; the next may do
                print(f"lmft: {error}", file=sys.stderr)
    except Interrupted as interrupted:
        if interrupted.signal_number != signal.SIGINT:
            raise
        print()  # Ctrl-C ends the conversation, as Ctrl-D does


def choose_model(arguments: Namespace) -> tuple[str | None, list[str]]:
    """Return the run that a line names, by word or by run=, and the words for its config.

    The folder of a model is taken, too.

    Raises:
        UserError: two are named.
    """
    words = [word for word in arguments.words if "=" in word]
    names = [word for word in arguments.words if "=" not in word]
    names += [arguments.run] if arguments.run else []
    if len(names) > 1:
        raise UserError(f"lmft chat takes one run, not {len(names)}; leave all but one out.")
    if not names:
        return None, words
    folder = Path(names[0]).expanduser()
    if (folder / "config.json").is_file():
        model = {"model": "pretrained", "model.name": str(folder), "objective": "clm"}
        return None, [*as_words(model), *words]
    return names[0], words


def read_lines(opened: TextModel) -> Iterator[str]:
    """Yield what the user writes, line by line, until Ctrl-D or the end of the pipe."""
    with suppress(AttributeError, ValueError):  # a terminal may send any byte
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    if not sys.stdin.isatty():
        for line in sys.stdin:
            yield line.rstrip("\n")
        return
    with suppress(ImportError):  # Windows
        import readline  # noqa: F401  # input() then edits lines and remembers them

    how = "with its chat template" if opened.tokenizer.chat_template else "by continuing the text"
    print(f"The model answers {how}. Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            line = input(PROMPT)
        except EOFError:
            print()
            return
        if line.strip():
            yield line


def answer(opened: TextModel, turns: list[tuple[str, str]], line: str, sampling: Sampling) -> str:
    """Print the answer to a line while it is generated; return it.

    Args:
        opened: the model.
        turns: lines and answers before it; the earliest are removed if they don't fit.
        line: what the user wrote.
        sampling: how to answer.

    Raises:
        UserError: the line is longer than the context, or the template refuses it.
    """
    context = context_size(opened.model) or sys.maxsize
    wanted = min(sampling.tokens, context // 2)
    ids = tokenize_turns(opened, turns, line)
    while turns and len(ids) + wanted > context:
        del turns[0]
        ids = tokenize_turns(opened, turns, line)
    room = context - len(ids)
    if room < 1:
        raise UserError(
            f"The line's {len(ids)} tokens leave no room for an answer in the {context} that the "
            "model reads at once; shorten it."
        )

    def write(text: str) -> None:
        print(strip_control(text), end="", flush=True)

    streamer = TextStreamer(opened.tokenizer, sampling.stop, write)
    limited = Sampling(**{**vars(sampling), "tokens": min(sampling.tokens, room)})
    with torch.random.fork_rng(devices=[]):
        (text,) = continue_texts(opened.model, opened.tokenizer, [ids], limited, streamer)
    print(flush=True)
    return text


def tokenize_turns(opened: TextModel, turns: list[tuple[str, str]], line: str) -> np.ndarray:
    """Return the ids (T,) of a conversation up to the model's answer to `line`.

    Without a chat template, it is one text: each line with its continuation.

    Raises:
        UserError: the template refuses it.
    """
    tokenizer = opened.tokenizer
    if not tokenizer.chat_template:
        text = "\n".join([*(said + answered for said, answered in turns), line])
        around = find_separator(opened.separator, tokenizer)
        bare = tokenizer(text, add_special_tokens=False)["input_ids"]
        return np.array([*around.before, *bare] or around.between, dtype=np.int64)
    messages = []
    for said, answered in turns:
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": answered}]
    messages.append({"role": "user", "content": line})
    try:
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    except TemplateError as error:
        raise UserError(f"The model's chat template can't take this ({error}).") from error
    return np.array(ids, dtype=np.int64)
