"""Untrusted text is shown as text: no escape sequence, markup or HTML gets through."""

import io
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.table import Table

from lmft.output.markdown import escape, fence, table
from lmft.output.sanitize import strip_control
from lmft.output.terminal import SHOWN_KNOBS, Screen, Terminal, counted, readable_size

NASTY = [
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "\x9b31m",
    "\u202etxt.exe\u202c",
    "\u2066x\u2069",
    "a\rb",
    "\x00\x08\x7f",
    "[bold red]x[/bold red][link=http://evil]y[/link]",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "`` ``` \n# head\n| a | b |",
    "![x](javascript:alert(1)) &lt;b&gt; :warning:",
]


TURNS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # bidirectional


def is_steering(text):
    return any(
        (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t")
        or unicodedata.bidirectional(c) in TURNS
        for c in text
    )


@settings(max_examples=50)
@given(st.text() | st.sampled_from(NASTY))
def test_stripped_text_controls_no_terminal_and_stays_readable(text):
    shown = strip_control(text)
    assert not is_steering(shown) and len(shown) == len(text)
    assert strip_control(shown) == shown
    assert "\n" not in strip_control(text, lines=False)


def test_letters_of_all_languages_stay():
    text = "naïve Ελλάδα می‌خواهم 日本語　字 👩‍🔬 a\u00a0b"
    assert strip_control(text) == text


@pytest.mark.parametrize("text", NASTY)
def test_the_terminal_shows_texts_as_they_are(text):
    file = io.StringIO()
    terminal = Terminal(Screen(file=file, width=200))
    values = {group: {} for group in SHOWN_KNOBS}
    values["dataset"] = {"name": text}
    values["model"] = {"label": text, "name": text}
    terminal.show_config(text, values)
    terminal.show_sizes({text: text})
    terminal.print(text)
    terminal.show_samples(text, [(text, text)])
    terminal.show_jobs([(1, text, "failed", 1.0, text)])
    cells = Table(text, title=text)
    cells.add_row(text)
    Screen(file=file, width=200).print(text, cells)
    shown = file.getvalue()
    assert not is_steering(shown)
    if text.isprintable() and "\n" not in text:  # markup is text
        assert text in shown


def test_words_end_lines_on_a_terminal_and_a_file_gets_them_whole():
    class Window(io.StringIO):
        def isatty(self):
            return True

    words = "perplexity 26.31 [25.07, 27.61 by document] · per token · wikitext2 validation " * 2
    for file, whole in ((Window(), False), (io.StringIO(), True)):
        console = Screen(file=file, width=80, force_terminal=False)
        Terminal(console).print_sentence(words.strip())
        lines = file.getvalue().splitlines()
        assert " ".join(file.getvalue().split()) == words.strip()
        assert (len(lines) == 1) == whole
        assert whole or all(len(line) <= 80 for line in lines)
        Terminal(console).print(f"Folder  /{'long/' * 40}")  # to be copied
        assert file.getvalue().splitlines()[-1].endswith("long/")


@pytest.mark.parametrize("text", NASTY)
def test_markdown_shows_texts_as_they_are(text):
    for body in (fence(text), table(("a", text), [(text, "b")]), escape(text)):
        assert not is_steering(body)
        html = MarkdownIt("commonmark").enable("table").render(body)
        assert "<script" not in html and "<img" not in html and "href" not in html


def test_one_thing_is_counted_as_one():
    assert [readable_size(size) for size in (1, 48, 2700)] == ["1 byte", "48 bytes", "2.7 kB"]
    assert [counted(number, "run") for number in (0, 1, 2000)] == ["0 runs", "1 run", "2,000 runs"]
