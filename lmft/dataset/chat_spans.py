"""Find what the assistant says in a rendered chat, with its end of turn.

A template without generation marks does not tell. But what it renders of the messages before one,
and up to one, are prefixes of the whole; and a character put after a message shows where it ends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
Span = tuple[int, int]  # first character, and the one after the last
Render = Callable[[list[Message], bool], str]  # of messages, with or without a generation prompt
NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # no text may have them


class SpansNotFound(ValueError):
    """What the assistant says can't be told apart from the rest."""


@dataclass(frozen=True)
class _Chat:
    """A chat and its rendered text."""

    render: Render
    messages: list[Message]
    text: str


def find_spans(
    render: Render, messages: list[Message], learnt: list[bool]
) -> tuple[str, list[Span]]:
    """Return the rendered chat, and the spans of the messages that are learnt.

    A span begins where the generation prompt ends, and ends with the end of turn, without white
    space that follows it.

    Raises:
        SpansNotFound: the template renders a message in a way that hides where it is.
    """
    chat = _Chat(render, messages, render(messages, False))
    spans: list[Span] = []
    for number, counts in enumerate(learnt):
        if counts:
            start, end = _find_span(chat, number)
            if start >= end or (spans and start < spans[-1][1]):
                raise SpansNotFound(f"message {number + 1} can't be found")
            spans.append((start, end))
    return chat.text, spans


def _find_span(chat: _Chat, number: int) -> Span:
    before, through = chat.messages[:number], chat.messages[: number + 1]
    # Some templates can't render no message at all.
    prompted = chat.render(before, True) if before else ""
    start = len(prompted) if before and chat.text.startswith(prompted) else None
    text = chat.text if through == chat.messages else chat.render(through, False)
    if start is not None and chat.text.startswith(text):
        said, turn = _content(chat.messages[number]), text[start:]
        if turn.lstrip().startswith(said) or _has_prompt(chat, before, prompted):
            return start, start + _turn_length(turn, said)
    if start is not None and not _has_prompt(chat, before, prompted):
        start = None
    return _find_by_marks(chat, number, start)


def _has_prompt(chat: _Chat, before: list[Message], prompted: str) -> bool:
    """Return whether the template puts a generation prompt after messages."""
    return prompted != chat.render(before, False)


def _turn_length(turn: str, said: str) -> int:
    """Return the length of a turn with its end of turn, which is white space if nothing else."""
    place = turn.find(said) if said else -1
    nothing_else = place >= 0 and not turn[place + len(said) :].strip()
    return len(turn) if nothing_else else len(turn.rstrip())


def _find_by_marks(chat: _Chat, number: int, start: int | None) -> Span:
    """Find a message by characters put around it, which the template has to leave there."""
    opening, closing = (mark for mark in _unused(chat.text, 2))
    said = _content(chat.messages[number])
    content = chat.messages[number].get("content", "")
    if not said:
        raise SpansNotFound(f"message {number + 1} has no text")
    marked = chat.messages[number] | {"content": content.replace(said, said + closing, 1)}
    if start is None:
        marked["content"] = content.replace(said, opening + said + closing, 1)
    before, after = chat.messages[:number], chat.messages[number + 1 :]
    whole, through = (chat.render([*before, marked, *more], False) for more in (after, []))
    if whole.replace(opening, "").replace(closing, "") != chat.text:
        raise SpansNotFound(f"message {number + 1} is rendered by its content")
    counts = [whole.count(opening)] if start is None else []
    if {*counts, whole.count(closing), through.count(closing)} != {1}:
        raise SpansNotFound(f"message {number + 1} is not rendered once")
    end_of_turn = through.partition(closing)[2]
    text = whole.replace(opening, "")
    end = text.index(closing)
    if not chat.text[end:].startswith(end_of_turn):
        raise SpansNotFound(f"message {number + 1} ends in another way as the last one")
    start = whole.index(opening) if start is None else start
    return start, end + (len(end_of_turn.rstrip()) or len(end_of_turn))


def _content(message: Message) -> str:
    return str(message.get("content", "")).strip()


def _unused(text: str, count: int) -> list[str]:
    """Return characters that are not in `text`."""
    found = [mark for mark in NONCHARACTERS if mark not in text][:count]
    if len(found) < count:
        raise SpansNotFound("its text has all noncharacters of Unicode")
    return found
