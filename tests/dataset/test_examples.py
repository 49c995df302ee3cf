"""Completions and chats: read from any layout, as tokens, and which of them are targets."""

import bz2
import csv
import gzip
import io
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmft.config.dataset_knobs import DataKind, DocumentRule, Learn
from lmft.dataset.batches import Batches, block_rng
from lmft.dataset.examples import overlap
from lmft.dataset.record_knobs import RecordKnobs
from lmft.dataset.sources import TextFiles
from lmft.dataset.split import Split
from lmft.dataset.token_stream import Blocks, check_has_text, open_stream
from lmft.dataset.tokenizer import Separator, load_tokenizer
from lmft.errors import UserError
from lmft.evaluation.token_bytes import measure_spans
from lmft.objective import IGNORED, CausalLM, MaskedLM
from tests.helpers.chats import template, write_chats

ASK, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho ho"}
CHATML = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Ho ho<|im_end|>]\n"
LAYOUTS = {  # a record -> its document, with what is learnt in brackets
    "messages": ({"messages": [ASK, ANSWER], "id": 1}, CHATML),
    "conversations": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho ho"}]},
        CHATML,
    ),
    "prompt": ({"prompt": "Hi", "completion": " ho"}, "Hi[ ho</s>]"),
    "prompt messages": ({"prompt": [ASK], "completion": [ANSWER]}, CHATML),
    "instruction": ({"instruction": "Say", "input": "Hi", "output": "Ho"}, "Say\nHi[Ho</s>]"),
    "text": ({"text": "Hi", "prompt": "Ho", "completion": "ho"}, "[Hi</s>]"),
}


@pytest.fixture(scope="module")
def tokenizer(stories):
    return load_tokenizer(str(stories), revision=None)


def as_split(path, rule=DocumentRule.auto, **knobs):
    knobs = RecordKnobs(**{"chat_template": "chatml", **knobs})
    source = TextFiles(knobs.text_column)
    return Split("train", "told", source, str(path), rule, None, 0.05, None, knobs)


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def learnt_of(stream):
    return stream.read_learnt(0, len(stream.ids))


def in_brackets(tokenizer, stream):
    """The text of a stream of one document, what is learnt in brackets."""
    text = ""
    for one, is_learnt in zip(stream.ids.tolist(), learnt_of(stream), strict=True):
        token = tokenizer.convert_ids_to_tokens(one)
        byte = re.fullmatch("<0x(..)>", token)
        token = chr(int(byte[1], 16)) if byte else token.replace("▁", " ")
        text += f"[{token}]" if is_learnt else token
    return text.replace("][", "").replace("[ ", "[ ").strip()


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_found_and_only_what_is_said_is_learnt(name, tokenizer, tmp_path):
    record, expected = LAYOUTS[name]
    split = as_split(write(tmp_path / "a.jsonl", record, record))
    stream = open_stream(split, tokenizer, "eos", tmp_path)
    end = int(stream.ends[0])
    assert (stream.ids[:end] == stream.ids[-end:]).all() or name == "text"
    split = as_split(write(tmp_path / "b.jsonl", record))
    found = in_brackets(tokenizer, open_stream(split, tokenizer, "eos", tmp_path))
    if name == "text":
        assert found == "[ Hi]"
    else:
        assert found.removesuffix("</s>") == expected.removesuffix("</s>")


def as_table(records, delimiter):
    """CSV with messages as JSON text."""
    text = io.StringIO(newline="")
    rows = [["messages"], *([json.dumps(record["messages"])] for record in records)]
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue().encode()


def as_parquet(records):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), buffer)
    return buffer.getvalue()


def as_arrow(records):
    table, buffer = pyarrow.Table.from_pylist(records), io.BytesIO()
    with pyarrow.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def as_lines(records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


FORMATS = {  # file -> its content
    "array.json": lambda records: json.dumps(records).encode(),
    "data.json": lambda records: json.dumps({"data": records}, indent=1).encode(),
    "lines.json": as_lines,
    "a.csv": lambda records: as_table(records, ","),
    "a.tsv": lambda records: as_table(records, "\t"),
    "a.parquet": as_parquet,
    "a.arrow": as_arrow,
    "a.parquet.gz": lambda records: gzip.compress(as_parquet(records)),
    "a.jsonl.bz2": lambda records: bz2.compress(as_lines(records)),
}


@pytest.mark.parametrize("name", [*FORMATS, "a list", "a glob"])
def test_chats_are_the_same_in_every_format(name, tokenizer, tmp_path):
    records = [{"messages": [ASK, ANSWER | {"weight": weight}]} for weight in (0, 1)]
    if name in FORMATS:
        where = str(tmp_path / name)
        (tmp_path / name).write_bytes(FORMATS[name](records))
    else:
        (tmp_path / "1.jsonl.gz").write_bytes(gzip.compress(as_lines(records[:1])))
        (tmp_path / "2.parquet").write_bytes(as_parquet(records[1:]))
        paths = [str(tmp_path / "1.jsonl.gz"), str(tmp_path / "2.parquet")]
        where = paths if name == "a list" else str(tmp_path / "[12].*")
    lines = as_split(write(tmp_path / "b.jsonl", *records))
    first, second = (
        open_stream(split, tokenizer, "eos", tmp_path)
        for split in (replace(lines, where=where), lines)
    )
    assert first.ids.tolist() == second.ids.tolist()
    assert learnt_of(first).tolist() == learnt_of(second).tolist()
    assert first.counts.unlearnt == 1 and first.counts.documents == 2


def test_a_column_that_is_there_twice_is_refused(tokenizer, tmp_path):
    for name, text in (
        ("a.csv", "prompt,completion,prompt\na,b,c\n"),
        ("a.jsonl", '{"prompt": "a", "completion": "b", "prompt": "c"}\n'),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=f"{name}, line . has prompt more than once; rename"):
            open_stream(as_split(tmp_path / name), tokenizer, "eos", tmp_path)


def test_the_targets_of_200_chats_are_the_tokens_of_the_assistant(tokenizer, tmp_path):
    chats = write_chats(tmp_path / "chats.jsonl")
    stream = open_stream(as_split(tmp_path / "chats.jsonl"), tokenizer, "eos", tmp_path)
    first = 0
    for messages, end in zip(chats, stream.ends, strict=True):
        text, said = "", []  # said: of each character, whether the assistant says it
        for one in messages:
            for part, is_said in (
                (f"<|im_start|>{one['role']}\n", False),
                (f"{one['content']}<|im_end|>", one["role"] == "assistant"),
                ("\n", False),
            ):
                text, said = text + part, said + [is_said] * len(part)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = [*encoded["input_ids"], tokenizer.eos_token_id]
        expected = [any(said[start:stop]) for start, stop in encoded["offset_mapping"]]
        assert stream.ids[first:end].tolist() == ids
        assert stream.read_learnt(first, int(end)).tolist() == [*expected, False]
        first = int(end)
    assert first == len(stream.ids)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), max_size=9),
    st.lists(st.integers(0, 24), max_size=8, unique=True),
)
def test_a_token_with_any_character_of_a_span_is_learnt(tokens, edges):
    edges = sorted(edges)[: len(edges) // 2 * 2]
    spans = list(zip(edges[::2], edges[1::2], strict=True))
    starts = np.array([start for start, _ in tokens], dtype=np.int64)
    ends = starts + np.array([length for _, length in tokens], dtype=np.int64)
    held = {character for start, end in spans for character in range(start, end)}
    found = overlap(starts, ends, spans)
    for start, end, is_learnt in zip(starts, ends, found, strict=True):
        if start < end:
            assert is_learnt == bool(held & set(range(start, end)))


def chat_batches(tokenizer, tmp_path, objective, size=16):
    write_chats(tmp_path / "chats.jsonl", 20)
    split = as_split(tmp_path / "chats.jsonl")
    return Batches(
        Blocks(open_stream(split, tokenizer, "eos", tmp_path), size), objective, tokenizer
    )


def test_an_epoch_has_each_learnt_token_as_a_target_and_no_other(tokenizer, tmp_path):
    batches = chat_batches(tokenizer, tmp_path, CausalLM())
    stream, size = batches.blocks.stream, batches.blocks.size
    learnt = learnt_of(stream)
    learnt[::size] = False  # nothing of its block is before it
    assert len(batches) < len(batches.blocks)  # some blocks have no target
    steps, targets = batches.training(4, 0, shuffle=True), 0
    for _ in range(batches.steps_per_epoch(4)):
        for batch in next(steps):
            assert (batch.targets != IGNORED).any(dim=1).all()
            targets += batch.num_targets
    assert targets == learnt.sum()
    for number in batches.numbers:
        block = batches.blocks.read(np.array([number]))
        bits = batches.blocks.read_learnt(np.array([number]))
        batch = batches.batch_of(block, [block_rng(0, 1, 0)], bits)
        where = batch.targets[0] != IGNORED
        start = int(number) * size
        assert where[:-1].tolist() == learnt[start + 1 : start + block.shape[1]].tolist()
        assert (batch.targets[0][where] == block[0].roll(-1)[where]).all()


def test_a_masked_model_hides_only_what_is_learnt(tokenizer, tmp_path):
    tokenizer.mask_token = "<unk>"
    batches = chat_batches(tokenizer, tmp_path, MaskedLM(0.5))
    for parts, _ in zip(batches.training(8, 0, shuffle=False), range(4), strict=False):
        for batch in parts:
            assert batch.num_targets
    numbers = batches.numbers[:8]
    blocks, learnt = batches.blocks.read(numbers), batches.blocks.read_learnt(numbers)
    batch = batches.batch_of(blocks, [block_rng(0, 1, int(n)) for n in numbers], learnt)
    hidden = batch.targets != IGNORED
    assert not (hidden & ~learnt).any() and (batch.inputs == blocks)[~hidden].all()
    ordinary = learnt & ~torch.isin(blocks, torch.tensor(tokenizer.all_special_ids))
    assert hidden.sum(1).tolist() == [max(1, round(0.5 * int(n))) for n in ordinary.sum(1)]
    alone = MaskedLM(0.5).one_by_one(blocks[0], tokenizer, learnt[0])
    assert len(alone.inputs) == ordinary[0].sum()


def test_the_bytes_of_all_tokens_are_those_of_the_rendered_chats(tokenizer, tmp_path):
    write_chats(tmp_path / "chats.jsonl", 20)
    split = as_split(tmp_path / "chats.jsonl")
    stream = open_stream(split, tokenizer, "eos", tmp_path)
    spans = measure_spans(split, tokenizer, "eos", stream)
    assert spans.bytes.sum() == stream.counts.bytes
    assert (spans.bytes[stream.ends - 1] == 0).all()  # of end tokens


WRONG = {  # records of a file -> what its sentence has
    "role": ([{"messages": [{"content": "a"}]}], "line 1, message 1 has no role; set it to"),
    "unknown": (
        [{"messages": [ASK, ANSWER]}, {"messages": [ASK, ANSWER | {"role": "bot"}]}],
        "line 2, message 2 has the role 'bot'; rename it to system",
    ),
    "none": ([{"messages": []}], "line 1 has no message; add one"),
    "content": ([{"messages": [{"role": "user"}]}], "message 1 has no content; fill it in"),
    "empty": ([{"messages": [ASK, ANSWER | {"content": " "}]}], 'message 2 is empty; fill it in'),
    "weight": ([{"messages": [ANSWER | {"weight": 0.5}]}], "the weight 0.5; set it to 0 or 1"),
    "list": ([{"messages": "oh"}], "line 1 has text in messages that is not JSON"),
    "object": ([{"messages": {"a": 1}}], "line 1 has dict in messages, not a list"),
    "turn": ([{"messages": ["a"]}], "line 1, message 1 is str, not an object"),
    "image": ([{"messages": [{"role": "user", "content": [{"type": "image"}]}]}], "has list as"),
    "completion": ([{"prompt": "a", "completion": ""}], "line 1 has an empty completion; fill it"),
    "null": ([{"instruction": "a", "output": None}], "line 1 has an empty output; fill it"),
    "mixed": ([{"prompt": [ASK], "completion": "a"}], "line 1 has messages in one of prompt and"),
    "number": ([{"prompt": 3, "completion": "a"}], "line 1 has int in prompt, not text"),
    "nul": ([{"prompt": "a\0", "completion": "a"}], "has a NUL in line 1"),
    "unlearnt": ([{"messages": [ASK]}], "has nothing to learn in 1 document"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_record_is_named_with_a_way_out(name, tokenizer, tmp_path):
    records, reason = WRONG[name]
    with pytest.raises(UserError, match=re.escape(reason)):
        split = as_split(write(tmp_path / "a.jsonl", *records))
        check_has_text(split, open_stream(split, tokenizer, "eos", tmp_path), Separator())


def test_a_knob_that_does_not_fit_the_records_is_named(tokenizer, tmp_path):
    chats = write(tmp_path / "a.jsonl", {"messages": [ASK, ANSWER]})
    texts = write(tmp_path / "b.jsonl", {"text": "a"})
    for split, separator, reason in (
        (as_split(texts, kind=DataKind.chat), "eos", "which needs messages or conversations, but"),
        (as_split(chats, kind=DataKind.completion), "eos", "needs prompt + completion or"),
        (as_split(chats, kind=DataKind.text), "eos", "has messages in line 1; set dataset.text_"),
        (as_split(chats, text_column="body"), "eos", "dataset.text_column is 'body', but"),
        (as_split(texts, learn=Learn.last), "eos", "is text, which has no completion; leave"),
        (as_split(chats), "\n\n", "a text, which is for text alone; set it to eos"),
        (as_split(chats, DocumentRule.line), "eos", "dataset.document is line, but"),
        (as_split(chats, chat_template="tokenizer"), "eos", "set dataset.chat_template=chatml"),
        (as_split(chats, chat_template="gone.jinja"), "eos", "'gone.jinja', which can't be read"),
    ):
        with pytest.raises(UserError, match=re.escape(reason)):
            open_stream(split, tokenizer, separator, tmp_path)


def test_knobs_that_change_nothing_are_in_no_key(tokenizer, tmp_path):
    texts = write(tmp_path / "a.jsonl", {"text": "a"})
    chats = write(tmp_path / "b.jsonl", {"messages": [ASK, ANSWER]})

    def key(path, **knobs):
        return open_stream(as_split(path, **knobs), tokenizer, "eos", tmp_path).digest

    assert key(texts) == key(texts, kind=DataKind.text, learn=Learn.all, prompt_template="alpaca")
    assert key(chats) == key(chats, kind=DataKind.chat, learn=Learn.completion)
    own = tmp_path / "own.jinja"
    own.write_text(template("bare"))
    others = [key(chats, learn=Learn.all), key(chats, chat_template=str(own))]
    own.write_text(template("zephyr"))
    assert len({key(chats), *others, key(chats, chat_template=str(own))}) == 4


def test_wording_is_put_around_prompts_only_on_request(tokenizer, tmp_path):
    path = write(tmp_path / "a.jsonl", {"instruction": "Say", "output": "Ho", "tone": "kind"})
    own = tmp_path / "own.txt"
    own.write_text("{{ instruction }} ({{ tone }}): ")
    for knob, prompt in {
        "none": "Say", str(own): "Say (kind): ", "alpaca": "\n\n### Instruction:\nSay\n\n### Resp",
    }.items():  # fmt: skip
        stream = open_stream(as_split(path, prompt_template=knob), tokenizer, "eos", tmp_path)
        text = tokenizer.decode(stream.ids)
        assert prompt in text and text.endswith("Ho</s>")
        assert tokenizer.decode(stream.ids[learnt_of(stream)]).strip() == "Ho</s>"
    own.write_text("{{ instruction }} {{ mood }}")
    with pytest.raises(UserError, match="line 1 .it uses mood, which the record lacks"):
        open_stream(as_split(path, prompt_template=str(own)), tokenizer, "eos", tmp_path)


def test_text_and_chats_may_stand_in_one_folder(tokenizer, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.txt").write_text("Hi there.")
    write(folder / "b.jsonl", {"messages": [ASK, ANSWER]})
    stream = open_stream(as_split(folder), tokenizer, "eos", tmp_path)
    first = int(stream.ends[0])
    assert stream.read_learnt(0, first).all() and tokenizer.decode(stream.ids[:first]) == (
        "Hi there.</s>"
    )
    assert tokenizer.decode(stream.ids[first:][learnt_of(stream)[first:]]) == "Ho ho<|im_end|>"
