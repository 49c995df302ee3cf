"""`lmft chat`: a conversation, in a terminal or through a pipe."""

import io
import itertools
import json
import shutil
import signal

import pytest

from lmft.commands.chat import answer, end_of_turn, tokenize_messages
from lmft.commands.text_model import open_model
from lmft.dataset.tokenizer import train_tokenizer
from lmft.evaluation.generation import Sampling, cut_at
from lmft.evaluation.text_streamer import TextStreamer
from tests.helpers.chats import SHAPES

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}. {% endfor %}"
    "{% if messages[0].content == 'no' %}{{ raise_exception('not this') }}{% endif %}assistant:"
)


class Terminal(io.StringIO):
    """Standard input that is a terminal; a line `^C` is Ctrl-C."""

    def isatty(self):
        return True

    def readline(self, *size):
        line = super().readline(*size)
        if line == "^C\n":
            signal.raise_signal(signal.SIGINT)
        return line


def talk(*said):
    """Messages of the user and the assistant, in turns."""
    roles = itertools.cycle(["user", "assistant"])
    return [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]


@pytest.fixture
def chat(command, monkeypatch):
    def run(words, said, stdin=io.StringIO):
        monkeypatch.setattr("sys.stdin", stdin(said))
        return command(f"chat {words} hardware=cpu hardware.precision=fp32 tokens=12")

    return run


@pytest.fixture
def templated(stories, tmp_path):
    """A model with a chat template."""
    folder = tmp_path / "templated"
    shutil.copytree(stories, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": TEMPLATE}))
    return folder


def test_through_a_pipe_each_line_is_answered_as_generate_continues_the_text(
    stories, chat, command
):
    code, printed, complaint = chat(stories, "Once\nThe dog")
    assert (code, complaint) == (0, "")
    start = f"generate model=pretrained model.name={stories} hardware=cpu hardware.precision=fp32"
    first = command(f"{start} tokens=12 prompt=Once")[1].removeprefix("Once")
    text = f"Once{first}The dog"
    second = command(f"{start} tokens=12 prompt='{text}'")[1].removeprefix(text)
    assert printed == first + second and first != second


def test_a_conversation_in_the_terminal_ends_with_ctrl_d_and_ctrl_c(stories, chat):
    asked = f"run={stories} stop=."
    code, printed, complaint = chat(asked, "Once\n\n", Terminal)
    assert code == 0 and printed.startswith("> ") and printed.endswith("> > \n")
    assert complaint == "The model answers by continuing the text. Ctrl-D ends.\n"
    code, again, _ = chat(asked, "Once\n\n^C\nmore\n", Terminal)
    assert code == 0 and again == printed


def test_the_template_of_the_model_makes_the_prompt(templated, chat):
    opened = open_model(None, ["model=pretrained", f"model.name={templated}", "hardware=cpu"])
    ids = tokenize_messages(opened, talk("hi", "hello", "ho"))
    assert opened.tokenizer.decode(ids) == "user: hi. assistant: hello. user: ho. assistant:"
    messages = talk(*["a dog " * 40, "and"] * 9, "ho")
    answer(opened, messages, Sampling(20))
    assert 1 < len(messages) < 19  # the earliest no longer fit
    code, printed, complaint = chat(templated, "no\nyes\n")
    assert (
        code == 0 and complaint == "lmft: The model's chat template can't take this (not this).\n"
    )
    assert printed.strip()


@pytest.mark.parametrize("end", ["<|im_end|>", "</s>"])  # ordinary text; the tokenizer's own
def test_an_answer_ends_where_the_template_ends_turns(end, templated):
    path = templated / "tokenizer_config.json"
    template = SHAPES["chatml"].replace("<|im_end|>", end).replace("<<", "").replace(">>", "")
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    opened = open_model(None, ["model=pretrained", f"model.name={templated}", "hardware=cpu"])
    assert end_of_turn(opened) == ("" if end == "</s>" else end)
    opened.tokenizer.chat_template = "{{ messages[-1].content }}"
    whole = answer(opened, talk("Once"), Sampling(20))
    mark = whole[8:12]
    opened.tokenizer.chat_template = "{{ messages[-1].content }}{% if messages[1] %}MARK{% endif %}"
    opened.tokenizer.chat_template = opened.tokenizer.chat_template.replace("MARK", mark)
    assert answer(opened, talk("Once"), Sampling(20)) == whole[:8].partition(mark)[0]
    assert answer(opened, talk("Once"), Sampling(20, stop="~")) == whole[:8].partition(mark)[0]


def test_a_line_longer_than_the_context_is_refused_and_the_next_answered(stories, chat):
    code, printed, complaint = chat(stories, f"{'word ' * 600}\nOnce\n")
    assert code == 0 and "leave no room for an answer in the 512" in complaint
    assert complaint.count("\n") == 1 and printed.strip()


@pytest.mark.parametrize("stops", [[], ["END"], ["never", "好\n"], ["END", "好\n"]])
def test_what_is_streamed_is_the_text_in_whole_characters(stops):
    import torch

    tokenizer = train_tokenizer(iter(["a"]), 300)
    text = "ENO E naïve 你好 ENEND 🎉你好\nafter"
    written = []
    streamer = TextStreamer(tokenizer, stops, written.append)
    streamer.put(torch.tensor([tokenizer("before", add_special_tokens=False)["input_ids"]]))
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        streamer.put(torch.tensor([token]))
    assert len(written) > 5
    streamer.end()
    assert "".join(written) == cut_at(stops, text) and "\ufffd" not in "".join(written)
