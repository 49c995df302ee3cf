"""The overview of a corpus: lengths, and blocks as the model sees them."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmft.dataset.batches import Batches
from lmft.dataset.overview.describe import MOST_BINS, count_lengths, describe, read_lengths
from lmft.dataset.overview.excerpts import EXCERPTS, decode, read_excerpts, read_spans
from lmft.dataset.overview.page import as_html
from lmft.dataset.overview.show import mark_spans, show_excerpt
from lmft.dataset.token_stream import Blocks, TokenStream, open_stream
from lmft.dataset.tokenizer import load_tokenizer
from lmft.objective import IGNORED, CausalLM, MaskedLM
from lmft.output.terminal import Screen
from tests.helpers.corpus import PROSE, as_split, train_small_tokenizer

TEXT = (PROSE + "  日本 \t 🦜🧵 e\u0301\n\n<b>bold</b> [x] ⟦y⟧  \x1b[31mred\u202e &amp; ") * 3
CAUSAL = CausalLM()
ASCII = TEXT.encode("ascii", "ignore").decode()  # of which each token is whole characters
NO_TEXT = re.compile("[\x1b\u202e]")


class Page(HTMLParser):
    """What a page has."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.learnt, self.blocks, self.is_learnt, self.is_block = set(), [], [], 0, 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        assert not {"src", "href"} & dict(attributes).keys()
        if tag == "pre":
            self.blocks.append("")
        elif tag == "mark":
            self.learnt.append("")
        self.is_block |= tag == "pre"
        self.is_learnt |= tag == "mark"

    def handle_endtag(self, tag):
        self.is_block &= tag != "pre"
        self.is_learnt &= tag != "mark"

    def handle_data(self, data):
        if self.is_block:
            self.blocks[-1] += data
        if self.is_learnt:
            self.learnt[-1] += data


@pytest.fixture(scope="module")
def tokenizers(shared):
    """Real tokenizers, of bytes and of pieces, and a small one."""
    names = ("gpt2-tokenizer", "stories260k")
    loaded = [load_tokenizer(str(shared / "models" / name), revision=None) for name in names]
    return [*loaded, train_small_tokenizer()]


@pytest.fixture
def batches(tokenizers, tmp_path):
    """Batches of a text of which the tokens are learnt that `learnt` picks by their number."""

    def make(objective=CAUSAL, learnt=lambda number: number % 9 > 5, size=48, text=TEXT):
        stream = open_stream(as_split([text] * 9), tokenizers[-1], "eos", tmp_path)
        bits = learnt and np.packbits(learnt(np.arange(len(stream.ids))))
        stream = TokenStream(stream.ids, stream.ends, stream.digest, stream.counts, bits)
        return Batches(Blocks(stream, size), objective, tokenizers[-1])

    return make


def text_of(excerpt):
    return "".join(span.text for span in excerpt.spans)


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_the_spans_of_a_block_are_its_text_in_order(tokenizers, seed):
    rng = np.random.default_rng(seed)
    for tokenizer in tokenizers:
        ids = np.array(tokenizer(TEXT, add_special_tokens=False)["input_ids"])
        ids = ids[rng.integers(len(ids) // 2) :]
        targets = np.where(rng.random(len(ids)) < 0.3, ids, IGNORED)
        spans = list(read_spans(ids, targets, tokenizer))
        assert "".join(span.text for span in spans) == decode(ids, tokenizer)


def test_marks_are_around_what_is_learnt_and_nothing_else(batches):
    made = batches(text=ASCII)
    numbers = np.array(made.block_numbers(EXCERPTS, 3, True, 0))
    blocks, bits = made.blocks.read(numbers).numpy(), made.blocks.read_learnt(numbers).numpy()
    bits[:, 0] = False  # nothing is before it
    for excerpt, ids, wanted in zip(read_excerpts(made, 3, True, 99), blocks, bits, strict=True):
        runs = np.split(ids, np.flatnonzero(np.diff(wanted)) + 1)
        learnt = [decode(run, made.tokenizer) for run in runs][1::2]
        for has_color, marks in ((False, len(learnt)), (True, 0)):
            shown = mark_spans(excerpt, has_color, ascii_only=False)
            assert shown.plain.count("⟦") == shown.plain.count("⟧") == marks
        green = [shown.plain[s.start : s.end] for s in shown.spans if "green" in str(s.style)]
        bare = [re.sub(r"[↵·⇥\s]", "", "".join(parts)) for parts in (green, learnt)]
        assert bare[0] == bare[1]


def test_color_marks_what_is_learnt_in_place_of_brackets(batches):
    excerpt = read_excerpts(batches(text=ASCII), 3, True, 99)[0]
    for options, marks in (
        ({"force_terminal": True, "_environ": {"TERM": "xterm"}}, "\x1b[32m"),
        ({"force_terminal": True, "_environ": {"TERM": "xterm", "NO_COLOR": "1"}}, "⟦"),
        ({}, "⟦"),
    ):
        file = io.StringIO()
        show_excerpt(excerpt, Screen(file=file, width=80, **options))
        found = {mark for mark in ("\x1b[32m", "⟦") if mark in file.getvalue()}
        assert found == {marks}


def test_a_block_of_which_all_is_learnt_has_no_marks(batches):
    for excerpt in read_excerpts(batches(learnt=None), 0, True, 99):
        assert not excerpt.is_marked
        assert mark_spans(excerpt, False, True).plain.count("]") == text_of(excerpt).count("]")


def test_a_masked_token_shows_what_is_to_be_predicted(batches):
    made = batches(MaskedLM(0.3), learnt=None)
    part = next(made.training(EXCERPTS, 0, True))[0]
    excerpts = read_excerpts(made, 0, True, 99)
    for excerpt, inputs, targets in zip(excerpts, part.inputs, part.targets, strict=True):
        changed = (targets != IGNORED) & (targets != inputs)
        wanted = [decode(target[None], made.tokenizer) for target in targets[changed]]
        assert [span.target for span in excerpt.spans if span.target] == wanted
        assert mark_spans(excerpt, True, False).plain.count("→") == len(wanted)


def test_a_long_block_is_shown_from_where_something_is_learnt(batches):
    for excerpt in read_excerpts(batches(learnt=lambda n: n % 400 > 390, size=400), 0, True, 40):
        assert excerpt.before + 40 + excerpt.after == 400
        assert any(span.is_learnt for span in excerpt.spans)


def test_padding_is_counted_and_not_repeated(batches):
    tokenizer = batches().tokenizer
    ids = np.array([40, 41, *[tokenizer.pad_token_id] * 200])
    spans = list(read_spans(ids, np.full(len(ids), IGNORED), tokenizer))
    assert [span.text for span in spans[1:]] == ["<pad> × 200"]


@given(st.lists(st.integers(0, 5000) | st.integers(0, 10**9), min_size=1, max_size=60))
def test_every_document_is_in_one_bin(lengths):
    array = np.array(lengths)
    found = count_lengths(array, 128, len(lengths))
    assert 1 <= len(found.bins) <= MOST_BINS + 1
    for one in found.bins:
        words = one.label.replace(",", "").split()
        low = 0 if words[0] == "under" else int(words[words[0] == "from"])
        high = int(words[-1]) - 1 if words[0] == "under" else int(words[-1])
        high = 10**9 if words[0] == "from" else high
        assert one.share * len(lengths) == pytest.approx(((array >= low) & (array <= high)).sum())
        assert one.is_longer == ((min(lengths) if words[0] == "under" else low) > 128)
    assert sum(one.share for one in found.bins) == pytest.approx(1)
    assert found.longer == (array > 128).mean()


def test_lengths_are_those_of_the_documents_with_their_separators():
    lengths = [3, 0, 700, 12]
    stream = TokenStream(np.zeros(715, np.uint16), np.cumsum(lengths), "")
    assert read_lengths(stream).tolist() == lengths


def test_a_page_has_the_blocks_as_text_and_loads_nothing(batches):
    made = batches()
    overview = describe("<i>a</i>", "per token", {"train": made, "test": made}, 0, True, 99)
    text = as_html(overview)
    page = Page(text)
    assert text == as_html(overview) and not NO_TEXT.search(text)
    assert "://" not in text and not {"script", "bold", "a", "img", "link"} & page.tags
    assert "<i>a</i>" not in text and "prefers-color-scheme: dark" in text
    for shown, excerpt in zip(page.blocks, overview.excerpts, strict=True):
        seen = NO_TEXT.sub("\ufffd", text_of(excerpt))
        assert re.sub("[↵·⇥\\s]", "", shown) == re.sub("[·⇥\\s]", "", seen)
    learnt = [s.text for e in overview.excerpts for s in e.spans if s.is_learnt]
    assert len(page.learnt) == len(learnt)
