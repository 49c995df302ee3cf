"""Chats as templates render them, and what of them is learnt."""

import numpy as np
import pytest

from lmft.config.schema import Learn
from lmft.dataset.chat_template import Template
from lmft.dataset.conversations import Chat
from lmft.dataset.examples import overlap
from lmft.dataset.tokenizer import load_tokenizer
from tests.helpers.chats import SHAPES, template, write_chats


@pytest.fixture(scope="module")
def tokenizer(stories):
    return load_tokenizer(str(stories), revision=None)


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    return write_chats(tmp_path_factory.mktemp("chats") / "chats.jsonl", 30)


def as_template(text, tokenizer):
    return Template("dataset.chat_template", "T", text, tokenizer.special_tokens_map)


def as_chat(messages):
    return Chat("f, line 1", messages, [one["role"] == "assistant" for one in messages], None)


def learnt_tokens(tokenizer, text, chat, learn=Learn.completion):
    """The ids of a chat, and which of them are learnt."""
    rendered = as_template(text, tokenizer).render(chat, learn)
    encoding = tokenizer.backend_tokenizer.encode(rendered.text, add_special_tokens=False)
    starts, ends = np.array(encoding.offsets).T
    return encoding.ids, overlap(starts, ends, rendered.learnt).astype(int).tolist()


@pytest.mark.parametrize("name", SHAPES)
def test_spans_of_a_template_are_those_that_a_copy_with_marks_has(name, tokenizer, chats):
    for messages in chats:
        messages = messages[-2:] if name == "mistral" and len(messages) % 2 else messages
        reference = tokenizer.apply_chat_template(
            messages, chat_template=template(name, marks=True),
            return_dict=True, return_assistant_tokens_mask=True,
        )  # fmt: skip
        expected = reference["input_ids"], reference["assistant_masks"]
        for marks in (False, True):
            found = learnt_tokens(tokenizer, template(name, marks), as_chat(messages))
            assert found == expected, messages
