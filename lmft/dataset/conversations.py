"""Completions and chats: the forms that records of any layout are read into."""

import json
from dataclasses import dataclass
from typing import Any

from lmft.dataset.formats.record import Record, names_of
from lmft.errors import UserError

ROLES = {  # as data has them -> as templates know them
    **{role: role for role in ("system", "developer", "user", "assistant", "tool", "function")},
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "observation": "tool",
}
SHOWN_ROLES = "system, user, assistant or tool"
NOT_FOR_TEMPLATES = {"role", "from", "value", "weight", "train"}  # what a message says to us


@dataclass(frozen=True)
class Completion:
    """A prompt and the text that follows it."""

    place: str  # the file and the record, for messages
    prompt: str
    completion: str
    columns: dict[str, str]  # all texts of the record but the completion, for a prompt template

    @property
    def text(self) -> str:
        """The document: both with nothing between them."""
        return self.prompt + self.completion


@dataclass(frozen=True)
class Chat:
    """The messages of one conversation."""

    place: str  # the file and the record, for messages
    messages: list[dict[str, Any]]  # as a template reads them: role, content and so on
    learnt: list[bool]  # of each message: whether dataset.learn=completion learns it
    tools: list[Any] | None

    @property
    def text(self) -> str:
        """What is said, without a template."""
        return "\n".join(message.get("content", "") for message in self.messages)


Example = Completion | Chat


def read_chat(record: Record, turns: list[Any], role_key: str, content_key: str) -> Chat:
    """Return the messages of a record as a chat.

    Raises:
        UserError: a message lacks a role or content, or has unknown ones.
    """
    if not turns:
        raise UserError(f"{record.full_place} has no message; add one, or remove the record.")
    messages, learnt = [], []
    for number, turn in enumerate(turns, start=1):
        place = f"{record.full_place}, message {number}"
        if not isinstance(turn, dict):
            raise UserError(
                f"{place} is {type(turn).__name__}, not an object; write it as "
                f'{{"{role_key}": ..., "{content_key}": ...}}.'
            )
        turn = {key: value for key, value in turn.items() if value is not None}
        role = _role(turn.get(role_key), role_key, place)
        counts = role == "assistant" and _is_learnt(turn, place)
        messages.append(_message(turn, role, content_key, counts, place))
        learnt.append(counts)
    tools = parsed_list(record, "tools") if record.values.get("tools") else None
    return Chat(record.full_place, messages, learnt, tools)


def _role(role: Any, key: str, place: str) -> str:
    if role is None:
        raise UserError(f"{place} has no {key}; set it to {SHOWN_ROLES}.")
    if not isinstance(role, str) or role not in ROLES:
        raise UserError(f"{place} has the {key} {role!r}; rename it to {SHOWN_ROLES}.")
    return ROLES[role]


def _is_learnt(turn: dict[str, Any], place: str) -> bool:
    """Return whether an assistant's message is learnt: not with `weight: 0` or `train: false`."""
    for key in ("weight", "train"):
        if turn.get(key, 1) not in (0, 1):
            raise UserError(f"{place} has the {key} {turn[key]!r}; set it to 0 or 1, or leave it.")
    return bool(turn.get("weight", 1)) and bool(turn.get("train", 1))


def _message(
    turn: dict[str, Any], role: str, content_key: str, is_learnt: bool, place: str
) -> dict[str, Any]:
    """Return a message as a template reads it."""
    message = {key: value for key, value in turn.items() if key not in NOT_FOR_TEMPLATES}
    content = turn.get(content_key)
    if isinstance(content, list) and all(_is_text_part(part) for part in content):
        content = "".join(part["text"] for part in content)
    if calls := message.get("tool_calls"):
        message["tool_calls"] = _with_parsed_arguments(calls)
    elif content is None:
        raise UserError(f"{place} has no {content_key}; fill it in, or remove the record.")
    elif is_learnt and not str(content).strip():
        raise UserError(
            f'{place} is empty; fill it in, remove the record, or add "train": false to it.'
        )
    if content is not None:
        if not isinstance(content, str):
            raise UserError(
                f"{place} has {type(content).__name__} as {content_key}, not text; lmft learns "
                "text alone, so remove the record."
            )
        message["content"] = content
    return message | {"role": role}


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


def _with_parsed_arguments(calls: Any) -> Any:
    """Return tool calls with arguments as objects, as templates expect them, not as JSON text."""
    if not isinstance(calls, list):
        return calls
    parsed = []
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            try:
                arguments = json.loads(function["arguments"])
            except ValueError:
                arguments = function["arguments"]
            call = call | {"function": function | {"arguments": arguments}}
        parsed.append(call)
    return parsed


def parsed_list(record: Record, column: str) -> list[Any]:
    """Return a list in a column, which tables may hold as JSON text."""
    value = _value(record, column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise UserError(
                f"{record.full_place} has text in {column} that is not JSON ({error}); write a "
                "list."
            ) from error
    if value is None or isinstance(value, list):
        return value or []
    raise UserError(
        f"{record.full_place} has {type(value).__name__} in {column}, not a list; write a list, or "
        "remove the record."
    )


def read_text(record: Record, column: str) -> str:
    """Return the text in a column; null is empty."""
    value = _value(record, column)
    if not is_text(value):
        raise UserError(
            f"{record.full_place} has {type(value).__name__} in {column}, not text; fix it, or "
            "remove the record."
        )
    return value or ""


def _value(record: Record, column: str) -> Any:
    """Return what is in a column; None if it is not there.

    Raises:
        UserError: it is there more than once.
    """
    if names_of(record.values).count(column) > 1:
        raise UserError(
            f"{record.full_place} has {column} more than once; rename or remove all but one of "
            "them."
        )
    return record.values.get(column)


def is_text(value: Any) -> bool:
    """Return whether a value is a text, or null."""
    return value is None or isinstance(value, str)
