"""Templates of chats and prompts: where they come from, and what rendering one gives.

A template is a program of its author. It runs in transformers' sandbox, in a process of its own
(`lmft.dataset.rendering`).
"""

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lmft.config.dataset_knobs import Learn
from lmft.dataset.chat_spans import Span, SpansNotFound, find_spans
from lmft.dataset.conversations import Chat, Completion, Example
from lmft.errors import UserError, first_line

CHATML = (
    "{% if tools %}{{ raise_exception('chatml has no place for tools') }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['tool_calls'] %}{{ raise_exception('chatml has no place for tool calls') }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Of https://github.com/tatsu-lab/stanford_alpaca, word for word.
ALPACA = (
    "{% if input %}"
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{{ instruction }}\n\n### Input:\n{{ input }}\n\n### Response:"
    "{% else %}"
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{{ instruction }}\n\n### Response:"
    "{% endif %}"
)
OWN, NONE = "tokenizer", "none"  # of dataset.chat_template and dataset.prompt_template
BUILT_IN = {
    "dataset.chat_template": {"chatml": CHATML},
    "dataset.prompt_template": {"alpaca": ALPACA},
}
MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")  # as transformers looks for it
DATE = datetime(2024, 7, 26)  # templates get it as today's, so that a text never changes


def read_template(knob: str, value: str) -> str | None:
    """Return the template that a knob names; None if it names none.

    Raises:
        UserError: there is no such file, or it is not text.
    """
    if value in (OWN, NONE):
        return None
    if value in BUILT_IN[knob]:
        return BUILT_IN[knob][value]
    path = Path(value).expanduser()
    default = OWN if knob == "dataset.chat_template" else NONE
    words = f"{default}, {', '.join(BUILT_IN[knob])}"
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(
            f"{knob} is {value!r}, which can't be read ({reason}); set it to {words}, or a file."
        ) from error


def own_template(tokenizer: Any) -> str:
    """Return the tokenizer's own chat template.

    Raises:
        UserError: it has none, or several and none for chats.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise UserError(
            "dataset.chat_template is 'tokenizer', but the model's tokenizer has no chat template; "
            "set dataset.chat_template=chatml, or to a file."
        )
    return str(template)


@dataclass(frozen=True)
class Rendered:
    """The text of a document, and which parts of it are learnt."""

    text: str
    learnt: list[Span]  # in characters, ascending


@dataclass(frozen=True)
class Template:
    """A template, and the variables that it gets beside the messages."""

    knob: str  # that names it
    name: str  # for messages
    text: str
    variables: dict[str, Any]  # the tokenizer's special tokens

    def render(self, example: Example, learn: Learn) -> Rendered:
        """Return the document of an example.

        Args:
            example: what is rendered.
            learn: the value of dataset.learn.

        Raises:
            UserError: the template fails, or what is learnt can't be found in the result.
        """
        try:
            if isinstance(example, Completion):
                prompt = self.render_prompt(example)
                text = prompt + example.completion
                return Rendered(text, [(0 if learn is Learn.all else len(prompt), len(text))])
            return self.render_chat(example, learn)
        except SpansNotFound as error:
            raise UserError(
                f"{self.name} renders {example.place} so that what the assistant says can't be "
                f"told apart ({error}); put {{% generation %}} marks into a copy of the template "
                "and set dataset.chat_template to it, or set dataset.learn=all."
            ) from error
        except Exception as error:  # of a stranger's program
            raise self._failure(example.place, error) from error

    def render_chat(self, chat: Chat, learn: Learn) -> Rendered:
        """Return a chat as text, with the spans of the messages that are learnt."""
        if learn is Learn.all:
            text, _ = self._render(chat.messages, chat.tools)
            return Rendered(text, [(0, len(text))])
        learnt = chat.learnt
        if learn is Learn.last:
            last = max((n for n, counts in enumerate(learnt) if counts), default=-1)
            learnt = [n == last for n in range(len(learnt))]
        if MARKED.search(self.text):
            text, spans = self._render(chat.messages, chat.tools, marks=True)
            return Rendered(text, _of_messages(spans, chat.messages, learnt))

        def render(messages: list[dict[str, Any]], prompt: bool) -> str:
            return self._render(messages, chat.tools, prompt)[0]

        return Rendered(*find_spans(render, chat.messages, learnt))

    def render_prompt(self, example: Completion) -> str:
        """Return the text in front of a completion."""
        from jinja2 import meta

        template = _compile(self.text)
        known = {"instruction": example.prompt, "input": ""} | example.columns
        known["prompt"] = example.prompt
        used = meta.find_undeclared_variables(template.environment.parse(self.text))
        if unknown := used - set(known) - set(template.globals):
            raise ValueError(f"it uses {', '.join(sorted(unknown))}, which the record lacks")
        return str(template.render(known))

    def _render(
        self,
        messages: list[dict[str, Any]],
        tools: list[Any] | None,
        prompt: bool = False,
        marks: bool = False,
    ) -> tuple[str, list[Span]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        _compile(self.text)
        rendered: tuple[list[str], list[list[Span]]] = render_jinja_template(  # type: ignore[assignment]
            [messages],
            tools=tools,
            chat_template=self.text,
            return_assistant_tokens_mask=marks,
            add_generation_prompt=prompt,
            **self.variables,
        )
        texts, spans = rendered
        return texts[0], spans[0] if marks else []

    def _failure(self, place: str, error: Exception) -> UserError:
        from jinja2 import TemplateSyntaxError

        reason = first_line(error)
        if isinstance(error, TemplateSyntaxError):
            return UserError(f"{self.name}, line {error.lineno} is no template ({reason}); fix it.")
        return UserError(
            f"{self.name} can't render {place} ({reason}); fix the record, or set "
            f"{self.knob} to another."
        )


def _compile(template: str) -> Any:
    """Return the compiled template, in which no day but `DATE` is today."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    compiled = _compile_jinja_template(template)
    compiled.globals["strftime_now"] = DATE.strftime
    return compiled


def _of_messages(
    spans: list[Span], messages: list[dict[str, Any]], learnt: list[bool]
) -> list[Span]:
    """Return the marked spans of the messages that are learnt."""
    spoken = [counts for message, counts in zip(messages, learnt, strict=True) if _speaks(message)]
    if len(spans) == len(spoken):
        return [span for span, counts in zip(spans, spoken, strict=True) if counts]
    if all(spoken):
        return spans
    raise SpansNotFound(f"it marks {len(spans)} parts of {len(spoken)} messages")


def _speaks(message: dict[str, Any]) -> bool:
    return bool(message["role"] == "assistant")
