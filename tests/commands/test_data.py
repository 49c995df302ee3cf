"""`lmft data`: what a model will read, on a terminal, as a page, and in the folder of a run."""

import re

import pytest

from tests.helpers.chats import write_chats

CHATS = "dataset=text_files dataset.train=chats.jsonl dataset.chat_template=chatml cache_root=cache"


@pytest.fixture
def chats(tmp_path):
    """Overrides for 200 chats in a file of this test; and what the assistant says in them."""
    said = [m["content"] for chat in write_chats(tmp_path / "chats.jsonl") for m in chat
            if m["role"] == "assistant"]  # fmt: skip
    return CHATS, said


def squeeze(text):
    return re.sub(r"[↵·⇥\s]", "", text)


def test_it_shows_what_is_learnt_of_chats_without_any_weights(chats, command, shared, monkeypatch):
    overrides, said = chats
    monkeypatch.setenv("COLUMNS", "80")
    name = shared / "models" / "gpt2-tokenizer"  # has no weights
    code, printed, complaint = command(
        f"data {overrides} model=pretrained model.name={name} dataset.block_size=200 html=x.html"
    )
    assert (code, complaint) == (0, "")
    lines = [line for line in printed.splitlines() if "x.html" not in line]  # a path is not cut
    assert all(len(line) <= 80 for line in lines)
    assert re.search(
        r"^train +1 file · 190 documents · 0 empty · 40.7 kB · chat from", printed, re.M
    )
    assert re.search(r"^train +190 [ \d,]+ [\d.]+% +\d\d.\d%$", printed, re.M)
    answers = {squeeze(text) + "<|im_end|>" for text in said}
    marked = [squeeze(text) for text in re.findall("⟦(.*?)⟧", printed, re.S)]
    assert len(marked) > 6
    whole = [text for text in marked if text.removesuffix("<|endoftext|>") in answers]
    assert len(whole) >= len(marked) - 6  # a block may begin or end within an answer


def test_a_run_keeps_the_page_that_the_verb_writes_and_publishes_none_of_it(fit, corpus, command):
    train = fit.root / "train.txt"
    phrase = " ".join(("zig", "zag"))  # in no other split, and in no diff that a card has
    train.write_text(train.read_text().replace("a mat", phrase))
    words = [*corpus, "dataset.block_size=64", "trainer.max_steps=1", "seed=3"]
    folder = fit(*words)
    code, _, complaint = command(" ".join(["data", *words, "cache_root=cache", "html=x.html"]))
    assert (code, complaint) == (0, "")
    page = (folder / "data.html").read_text()
    assert page == (fit.root / "x.html").read_text() and phrase in page
    published = [path.read_bytes() for path in (folder / "checkpoint").iterdir()]
    assert not any(phrase.encode() in content for content in published)


def test_it_says_which_documents_are_in_training_too_as_a_run_does(command, tmp_path):
    (tmp_path / "train.txt").write_text("the cat\nthe dog\nthe cat\n")
    (tmp_path / "held.txt").write_text("the dog\na bird\na bird\n")
    code, printed, _ = command(
        "data dataset=text_files dataset.train=train.txt dataset.validation=held.txt "
        "dataset.document=line dataset.block_size=4 model.vocab_size=261 html=x.html"
    )
    counts = ["3 documents · 0 empty · 1 duplicate · ", "3 documents · 0 empty · 1 in training too"]
    page = (tmp_path / "x.html").read_text()
    assert code == 0 and all(count in printed and count in page for count in counts)


def test_a_page_that_cannot_be_written_is_refused_first(command, tmp_path):
    for word in ("html=none/x.html", f"html={tmp_path}"):
        code, printed, complaint = command(f"data dataset=text_files {word}")
        assert (code, printed) == (2, "")
        assert complaint.startswith(f"lmft: {word} is ") and "set html=PATH to a file" in complaint
        assert len(complaint.splitlines()) == 1
    code, _, complaint = command("data dataset=text_files")
    assert code == 2 and "dataset.train has no value" in complaint
