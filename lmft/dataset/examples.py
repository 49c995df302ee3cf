"""Turn completions and chats into tokens, and tell which of them are learnt."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from transformers import PreTrainedTokenizerBase

from lmft.config.dataset_knobs import Learn
from lmft.dataset.chat_template import Rendered, Template, own_template, read_template
from lmft.dataset.conversations import Chat, Completion
from lmft.dataset.documents import whole_documents
from lmft.dataset.rendering import RenderingProcess
from lmft.dataset.split import Split
from lmft.dataset.tokenization import StreamPart
from lmft.dataset.tokenizer import Separator, text_backend
from lmft.errors import UserError

BATCH_SIZE = 1 << 20  # characters tokenized at once


def find_template(split: Split, tokenizer: PreTrainedTokenizerBase, of: type) -> Template | None:
    """Return the template of the chats of a split, or of its prompts; None if these have none.

    Args:
        split: its knobs name the template.
        tokenizer: has a template of its own, and the special tokens that templates use.
        of: `Chat` or `Completion`.

    Raises:
        UserError: there is no such file, or the tokenizer has no template.
    """
    knob = "chat_template" if of is Chat else "prompt_template"
    value = getattr(split.knobs, knob)
    text = read_template(f"dataset.{knob}", value)
    name = f"dataset.{knob}={value}"
    if text is None and of is Completion:
        return None
    if text is None:
        name, text = "The tokenizer's chat template", own_template(tokenizer)
    return Template(f"dataset.{knob}", name, text, dict(tokenizer.special_tokens_map))


def render_documents(split: Split, tokenizer: PreTrainedTokenizerBase) -> Iterator[Rendered]:
    """Yield the documents of a split as texts, with the parts of them that are learnt.

    Raises:
        UserError: a record is wrong, or a template can't render it.
    """
    learn = split.knobs.learn
    with ExitStack() as stack:
        processes: dict[type, RenderingProcess] = {}
        for kind, items in groupby(split.items(), key=lambda item: type(item[0])):
            if kind is str:
                for text, _ in whole_documents(items):  # type: ignore[arg-type]
                    yield Rendered(text, [(0, len(text))])
                continue
            examples = (example for example, _ in items if not isinstance(example, str))
            if kind not in processes and (template := find_template(split, tokenizer, kind)):
                processes[kind] = stack.enter_context(RenderingProcess(template, learn))
            if kind in processes:
                yield from processes[kind].render(examples)
            else:
                for example in examples:
                    start = 0 if learn is Learn.all else len(example.prompt)  # type: ignore[union-attr]
                    yield Rendered(example.text, [(start, len(example.text))])


@dataclass(frozen=True)
class EndTokens:
    """The ids around each document that is rendered, unless its template has written them."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    first: str  # the text of the first token of `before`
    last: str  # and of the last one of `after`

    def around(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids before and after a text."""
        begins = self.first and text.lstrip().startswith(self.first)
        ends = self.last and text.rstrip().endswith(self.last)
        return () if begins else self.before, () if ends else self.after


def find_end_tokens(separator: Separator, tokenizer: PreTrainedTokenizerBase) -> EndTokens:
    """Return what dataset.separator means for completions and chats: each has its end token.

    Raises:
        UserError: the separator is a text.
    """
    if separator.text:
        raise UserError(
            f"dataset.separator is {separator.text!r}, a text, which is for text alone; set it to "
            "eos, none or model for completions and chats."
        )
    before, after = separator.before, separator.after or separator.between
    ends = [*before[:1], *after[-1:]]
    tokens = iter(tokenizer.convert_ids_to_tokens(ends))
    first, last = (str(next(tokens)) if ids else "" for ids in (before, after))
    return EndTokens(before, after, first, last)


def tokenize_examples(
    documents: Iterator[Rendered], tokenizer: PreTrainedTokenizerBase, end_tokens: EndTokens
) -> Iterator[StreamPart]:
    """Yield the tokens of rendered documents, and which of them are learnt, part by part.

    Raises:
        UserError: the tokenizer gives no offsets, by which learnt tokens are found.
    """
    backend = text_backend(tokenizer)
    if backend is None:
        raise UserError(
            f"Completions and chats need a tokenizer that gives offsets, which "
            f"{type(tokenizer).__name__} does not; set model.tokenizer to another."
        )
    for group in _groups(documents):
        encodings = backend.encode_batch([one.text for one in group], add_special_tokens=False)
        ids: list[np.ndarray] = []
        learnt: list[np.ndarray] = []
        for one, encoding in zip(group, encodings, strict=True):
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            before, after = end_tokens.around(one.text)
            is_learnt = overlap(offsets[:, 0], offsets[:, 1], one.learnt)
            last = one.learnt[-1][1] if one.learnt else -1
            edges = one.learnt[:1] == [(0, len(one.text))], last == len(one.text)
            learnt.append(
                np.concatenate(
                    [np.full(len(before), edges[0]), is_learnt, np.full(len(after), edges[1])]
                )
            )
            ids.append(np.array([*before, *encoding.ids, *after], dtype=np.int64))
        ends = np.cumsum([len(part) for part in ids]).tolist()
        unlearnt = sum(not part.any() for part in learnt)
        yield StreamPart(np.concatenate(ids), ends, np.concatenate(learnt), unlearnt)


def overlap(starts: np.ndarray, ends: np.ndarray, spans: list[tuple[int, int]]) -> np.ndarray:
    """Return of each token whether it holds any character of a span; (n,) bool.

    Args:
        starts: (n,) of the tokens, in characters.
        ends: (n,) of the tokens.
        spans: ascending.
    """
    if not spans:
        return np.zeros(len(starts), dtype=bool)
    firsts, lasts = np.array(spans, dtype=np.int64).T
    candidate = np.searchsorted(lasts, starts, side="right")  # the first span that ends later
    found: np.ndarray = np.append(firsts, np.iinfo(np.int64).max)[candidate] < ends
    return found


def _groups(documents: Iterator[Rendered]) -> Iterator[list[Rendered]]:
    group: list[Rendered] = []
    size = 0
    for one in documents:
        group.append(one)
        size += len(one.text)
        if size >= BATCH_SIZE:
            yield group
            group, size = [], 0
    if group:
        yield group
