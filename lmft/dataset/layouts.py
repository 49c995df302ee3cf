"""Find out which columns of records hold completions or chats, and read them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lmft.config.dataset_knobs import DataKind
from lmft.dataset.conversations import (
    Chat,
    Completion,
    Example,
    is_text,
    parsed_list,
    read_chat,
    read_text,
)
from lmft.dataset.formats.record import Record
from lmft.dataset.sources import Table
from lmft.errors import UserError

DEFAULT_COLUMN = "text"  # of dataset.text_column; another value was set by somebody


@dataclass(frozen=True)
class Layout:
    """The columns that a document is read from, and how."""

    kind: DataKind
    columns: tuple[str, ...]
    read: Callable[[Record], Example]
    has_messages: bool = True  # which a chat template renders

    def describe(self) -> str:
        """Return what was taken, for display."""
        return f"{self.kind.value} from {' + '.join(self.columns)}"


def find_layout(table: Table, kind: DataKind, text_column: str) -> Layout | None:
    """Return the layout of a table's records; None if they are text.

    With dataset.kind=auto, a file that has dataset.text_column is text, and so is any if that
    knob was set; only otherwise do other columns decide.

    Raises:
        UserError: `kind` is completion or chat, and the columns for it are not there.
    """
    names = table.names()
    is_text = kind is DataKind.auto and (text_column in names or text_column != DEFAULT_COLUMN)
    if kind is DataKind.text or is_text:
        return None
    found: dict[DataKind, Layout | None] = {
        layout.kind: layout for layout in reversed(LAYOUTS) if set(layout.columns) <= {*names}
    }
    if kind is DataKind.auto:
        found[kind] = found.get(DataKind.chat) or found.get(DataKind.completion) or None
    if found.get(kind) is PROMPTS and isinstance(_first(table).get("prompt"), list):
        return MESSAGES_IN_BOTH
    if kind not in found:
        raise UserError(
            f"dataset.kind is {kind.value}, which needs {_describe_columns(kind)}, but "
            f"{table.where} has {', '.join(names) or 'no columns'}; rename its columns, or set "
            "dataset.kind=auto."
        )
    return found[kind]


def _describe_columns(kind: DataKind) -> str:
    return " or ".join(" + ".join(layout.columns) for layout in LAYOUTS if layout.kind is kind)


def _read_messages(record: Record) -> Chat:
    return read_chat(record, parsed_list(record, "messages"), "role", "content")


def _read_conversations(record: Record) -> Chat:
    turns = parsed_list(record, "conversations")
    key = "from" if turns and isinstance(turns[0], dict) and "from" in turns[0] else "role"
    return read_chat(record, turns, key, "value" if key == "from" else "content")


def _read_prompt(record: Record) -> Completion:
    _check_pair(record, str)
    return _completion(record, read_text(record, "prompt"), "completion")


def _read_instruction(record: Record) -> Completion:
    instruction, more = (read_text(record, name) for name in ("instruction", "input"))
    return _completion(record, f"{instruction}\n{more}" if more else instruction, "output")


def _completion(record: Record, prompt: str, column: str) -> Completion:
    completion = read_text(record, column)
    if not completion.strip():
        raise UserError(
            f"{record.full_place} has an empty {column}; fill it in, or remove the record."
        )
    texts = {name: value or "" for name, value in record.values.items() if is_text(value)}
    return Completion(record.full_place, prompt, completion, texts | {column: ""})


def _joined_chat(record: Record) -> Chat:
    """Return a prompt and a completion that are messages as one chat that learns the second."""
    _check_pair(record, list)
    prompt, completion = (
        read_chat(record, parsed_list(record, name), "role", "content")
        for name in ("prompt", "completion")
    )
    unlearnt = [False] * len(prompt.messages)
    messages = prompt.messages + completion.messages
    return Chat(record.full_place, messages, unlearnt + completion.learnt, prompt.tools)


def _check_pair(record: Record, form: type) -> None:
    """Check that prompt and completion are both texts, or both lists of messages."""
    values = [record.values.get(name) for name in ("prompt", "completion")]
    if any(isinstance(value, str | list) and not isinstance(value, form) for value in values):
        raise UserError(
            f"{record.full_place} has messages in one of prompt and completion, text in the other, "
            "or both unlike the first record; write all as texts, or all as lists of messages."
        )


def _first(table: Table) -> dict[str, Any]:
    record = next(table.records(), None)
    return {} if record is None else record.values


PROMPTS = Layout(DataKind.completion, ("prompt", "completion"), _read_prompt, False)
MESSAGES_IN_BOTH = replace(PROMPTS, read=_joined_chat, has_messages=True)
INPUTS = Layout(DataKind.completion, ("instruction", "input", "output"), _read_instruction, False)
LAYOUTS = (  # the first of a kind that fits is taken
    Layout(DataKind.chat, ("messages",), _read_messages),
    Layout(DataKind.chat, ("conversations",), _read_conversations),
    PROMPTS,
    INPUTS,
    replace(INPUTS, columns=("instruction", "output")),
)
