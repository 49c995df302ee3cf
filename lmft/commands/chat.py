"""`lmft chat`: talk with a model in the terminal, or line by line through a pipe."""

import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jinja2 import TemplateError

from lmft.commands.generate import read_sampling
from lmft.commands.text_model import TextModel, open_model
from lmft.commands.words import as_words
from lmft.dataset.tokenizer import find_separator
from lmft.errors import Interrupted, UserError
from lmft.evaluation.generation import Sampling, continue_texts, end_tokens
from lmft.evaluation.text_streamer import TextStreamer
from lmft.model.probe import context_size
from lmft.output.sanitize import strip_control
from lmft.storage.hub import is_model_folder

PROMPT = "> "

Message = dict[str, str]  # its role (system, user, assistant) and its content


def main(arguments: Namespace) -> None:
    """Run the command.

    Raises:
        UserError: the model can't answer.
    """
    name, words = choose_model(arguments)
    opened = open_causal_model(name, words)
    sampling = read_sampling(arguments)
    messages: list[Message] = []
    try:
        for line in read_lines(opened):
            messages.append({"role": "user", "content": line})
            try:
                said = answer(opened, messages, sampling, write)
            except UserError as error:  # of this line; the next may do
                print(f"lmft: {error}", file=sys.stderr)
                del messages[-1]
            else:
                print(flush=True)
                messages.append({"role": "assistant", "content": said})
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
    if is_model_folder(folder):
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


def write(text: str) -> None:
    """Print a part of an answer."""
    print(strip_control(text), end="", flush=True)


def chat(name: str, prompt: str | Sequence[Message], sampling: Sampling) -> str:
    """Return what the run `name` answers to a line or to a conversation.

    Raises:
        UserError: the model can't answer.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*prompt]
    if not messages or not all({"role", "content"} <= set(message) for message in messages):
        raise UserError(
            'A conversation is a text, or a list as [{"role": "user", "content": "Hello"}].'
        )
    return answer(open_causal_model(name, []), messages, sampling)


def open_causal_model(name: str | None, words: list[str]) -> TextModel:
    """Return the best weights of the run `name`, or the model that the words name.

    Raises:
        UserError: there is none, or it is a masked one.
    """
    opened = open_model(name, words)
    if not opened.objective.is_causal:
        raise UserError("lmft chat needs a causal model; lmft generate fills masks.")
    return opened


def answer(
    opened: TextModel,
    messages: list[Message],
    sampling: Sampling,
    write: Callable[[str], None] = lambda text: None,
) -> str:
    """Return the answer to the last of the messages.

    Args:
        opened: the model.
        messages: the user's, with their answers; the earliest are removed if they don't fit.
        sampling: how to answer; the answer also ends where the template ends turns.
        write: called with each part of the answer, as it is generated.

    Raises:
        UserError: the last message is longer than the context, or the template refuses it.
    """
    context = context_size(opened.model) or sys.maxsize
    wanted = min(sampling.tokens, context // 2)
    ids = tokenize_messages(opened, messages)
    while len(ids) + wanted > context and remove_earliest(messages):
        ids = tokenize_messages(opened, messages)
    room = context - len(ids)
    if room < 1:
        raise UserError(
            f"The line's {len(ids)} tokens leave no room for an answer in the {context} that the "
            "model reads at once; shorten it."
        )
    tokens = min(sampling.tokens, room)
    sampling = replace(sampling, tokens=tokens, end_of_turn=end_of_turn(opened))
    streamer = TextStreamer(opened.tokenizer, sampling.stops, write)
    with torch.random.fork_rng(devices=[]):
        (text,) = continue_texts(opened.model, opened.tokenizer, [ids], sampling, streamer)
    return text


def end_of_turn(opened: TextModel) -> str:
    """Return the mark that the chat template puts after an answer; "" if generation ends there.

    A model that was trained with `chatml` has learnt its marks as ordinary text.
    """
    tokenizer, said = opened.tokenizer, "nothing"
    if not tokenizer.chat_template:
        return ""
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": said}]
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except TemplateError:
        return ""
    mark = text.rpartition(said)[2].strip().partition("\n")[0]
    return "" if mark in tokenizer.convert_ids_to_tokens(end_tokens(opened.model)) else mark


def remove_earliest(messages: list[Message]) -> bool:
    """Remove the user's earliest message and its answer; return whether there is a later one."""
    asked = [i for i, message in enumerate(messages) if message["role"] == "user"]
    if len(asked) > 1:
        del messages[asked[0] : asked[1]]
    return len(asked) > 1


def tokenize_messages(opened: TextModel, messages: Sequence[Message]) -> np.ndarray:
    """Return the ids (T,) of a conversation up to the model's answer.

    Without a chat template, it is one text: what the user said, continued by each answer, in lines.

    Raises:
        UserError: the template refuses it.
    """
    tokenizer = opened.tokenizer
    if not tokenizer.chat_template:
        ends = {"assistant": "\n"}
        parts = [message["content"] + ends.get(message["role"], "") for message in messages]
        around = find_separator(opened.separator, tokenizer)
        bare = tokenizer("".join(parts), add_special_tokens=False)["input_ids"]
        return np.array([*around.before, *bare] or around.between, dtype=np.int64)
    try:
        ids = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_dict=False
        )
    except TemplateError as error:
        raise UserError(f"The model's chat template can't take this ({error}).") from error
    return np.array(ids, dtype=np.int64)
