"""Chats as templates render them, and what of them is learnt."""

from dataclasses import replace

import numpy as np
import pytest
from transformers import AddedToken

from lmft.config.dataset_knobs import Learn
from lmft.dataset import rendering
from lmft.dataset.chat_template import Template
from lmft.dataset.conversations import Chat
from lmft.dataset.examples import overlap
from lmft.dataset.tokenizer import load_tokenizer
from lmft.errors import UserError
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


@pytest.fixture(scope="module")
def tokenizers(shared, tokenizer):
    """Of SentencePiece, byte-level, and with the marks of templates as special tokens."""
    folder = str(shared / "models" / "gpt2-tokenizer")
    plain, special = (load_tokenizer(folder, revision=None) for _ in range(2))
    marks = ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "[INST]", "[/INST]", "<end_of_turn>"]
    special.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    return [tokenizer, plain, special]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("name", SHAPES)
def test_spans_of_a_template_are_those_that_a_copy_with_marks_has(name, number, tokenizers, chats):
    tokenizer = tokenizers[number]
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


def test_only_the_last_answer_or_those_that_count_are_learnt(tokenizer):
    said = ["a", "one", "b", "two", "c", "three"]
    roles = ["user", "assistant"] * 3
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    chat = replace(as_chat(messages), learnt=[False, True, False, False, False, True])
    for name in SHAPES:
        for marks in (False, True):
            template_of = as_template(template(name, marks), tokenizer)
            for learn, expected in {Learn.completion: [0, 2], Learn.last: [2]}.items():
                rendered = template_of.render(chat, learn)
                parts = [rendered.text[start:end] for start, end in rendered.learnt]
                assert [part for part in ("one", "two", "three") if part in "".join(parts)] == [
                    ("one", "two", "three")[index] for index in expected
                ]
                assert len(parts) == len(expected)


def test_an_answer_may_come_first_follow_another_or_only_call_a_tool(tokenizer):
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "cat"}}}
    text = (
        "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}"
        "{% for call in message['tool_calls'] %}{{ call['function'] | tojson }}{% endfor %}"
        "<end>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    messages = [
        {"role": "assistant", "content": " hi "},
        {"role": "assistant", "content": "there"},
        {"role": "user", "content": "look"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "a cat"},
    ]
    rendered = as_template(text, tokenizer).render(as_chat(messages), Learn.completion)
    parts = [rendered.text[start:end] for start, end in rendered.learnt]
    called = '{"name": "look", "arguments": {"at": "cat"}}<end>'
    assert parts == ["hi <end>", "there<end>", called]


def test_thoughts_that_a_template_cuts_off_are_not_sought(tokenizer):
    """As Qwen 3 and DeepSeek R1 do; the second has its generation prompt begin a thought."""
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<t>x</t>\nb"}]
    for prompt, kept in (("", True), ("<t>", True), ("", False)):
        text = (
            "{% for message in messages %}<{{ message['role'] }}>"
            "{% if loop.last and KEPT %}{{ message['content'] }}"
            "{% else %}{{ message['content'].split('</t>')[-1].lstrip('\n') }}{% endif %}<end>\n"
            "{% endfor %}{% if add_generation_prompt %}<assistant>PROMPT{% endif %}"
        ).replace("PROMPT", prompt).replace("KEPT", str(kept).lower())  # fmt: skip
        rendered = as_template(text, tokenizer).render(as_chat(said), Learn.completion)
        parts = [rendered.text[start:end] for start, end in rendered.learnt]
        assert parts == [("<t>x</t>\nb<end>" if kept else "b<end>").removeprefix(prompt)]
    twice = text.replace("<assistant>", "<assistant><t>")
    with pytest.raises(UserError, match="message 2 is not rendered once"):
        as_template(twice, tokenizer).render(as_chat(said), Learn.completion)


def test_a_template_that_hides_what_is_said_is_refused(tokenizer):
    text = (
        "{% for message in messages %}{{ message['content'] | upper }}{{ loop.length }}{% endfor %}"
    )
    chat = as_chat([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 2)
    with pytest.raises(UserError, match=r"T renders f, line 1 so .* dataset\.learn=all"):
        as_template(text, tokenizer).render(chat, Learn.completion)
    assert as_template(text, tokenizer).render(chat, Learn.all).learnt == [(0, 8)]


def test_today_is_always_the_same_day(tokenizer):
    rendered = as_template("{{ strftime_now('%d %b %Y') }}", tokenizer).render(
        as_chat([{"role": "user", "content": "a"}]), Learn.completion
    )
    assert rendered.text == "26 Jul 2024"


ENDLESS = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ENDLESS, r"did not render f, line 1 within 0.3 s; set dataset\.chat_template"),
        ("{{ 10 ** (10 ** 9) }}", r"did not render f, line 1 within 0.3 s"),
        ("{{ raise_exception('roles must alternate') }}", r"f, line 1 \(roles must alternate\)"),
        ("{{ messages.append(1) }}", r"T can't render f, line 1 \(.*unsafe"),
        ("\n{% for %}", r"T, line 2 is no template \(Expected"),
    ],
)
def test_a_template_that_fails_or_never_ends_is_stopped_and_named(
    text, reason, tokenizer, monkeypatch
):
    monkeypatch.setattr(rendering, "TIME_LIMIT", 0.3)
    chat = as_chat([{"role": "user", "content": "a"}])
    with rendering.RenderingProcess(as_template(text, tokenizer), Learn.completion) as process:
        with pytest.raises(UserError, match=reason):
            list(process.render(iter([chat])))
    assert not process._process.is_alive()


def test_a_process_renders_many_chats_in_their_order(tokenizer, chats, monkeypatch):
    monkeypatch.setattr(rendering, "AT_ONCE", 7)
    of = as_template(template("chatml"), tokenizer)
    with rendering.RenderingProcess(of, Learn.completion) as process:
        found = list(process.render(as_chat(messages) for messages in chats))
    assert found == [of.render(as_chat(messages), Learn.completion) for messages in chats]
