"""Documents of a corpus, from files of every format."""

import bz2
import csv
import gzip
import io
import json
import logging
import lzma
import os
import re

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lmft.config.dataset_knobs import DocumentRule
from lmft.dataset import documents
from lmft.dataset.documents import RULES, split_documents
from lmft.dataset.readers import FORMATS, RECORD_FORMATS, TEXT_FORMATS
from lmft.dataset.sources import HubDataset, PythonDocs, TextFiles
from lmft.dataset.splits import open_splits, warn_of_overlap
from lmft.errors import UserError
from tests.helpers.dataset_config import as_config

# Lines as files keep them: other separators of lines than "\n" do not end one.
LINES = [
    " \n",
    "one, two\n",
    "\n",
    'a "quoted" word\r here\n',
    "\u00e9\u00e8 \N{CAT FACE} \u2028 \x0b the same line\n",
    "\ttabs\there\n",
    "the last one, without an end",
]
ROWS = st.lists(
    st.one_of(
        st.sampled_from(["", "\n", " \n", " = Title = \n", " = = Part = = \n", "text \n", "text"]),
        st.text(alphabet=" =\n\ra\u00e9\u2028", max_size=12),
    ),
    max_size=12,
)


def as_documents(pieces):
    """Whole texts, from pieces."""
    texts, text = [], ""
    for part, ends in pieces:
        text += part
        if ends:
            texts.append(text)
            text = ""
    assert text == "", "the last document does not end"
    return texts


def read(path, column="text", document="auto"):
    """The documents of files."""
    config = as_config(
        source=TextFiles(column), train=str(path), document=DocumentRule[document], test=str(path)
    )
    return as_documents(open_splits(config)["test"].pieces())


def encode(suffix, rows):
    """A file's bytes."""
    if suffix in TEXT_FORMATS:
        return "".join(rows).encode()
    records = [{"number": number, "text": row} for number, row in enumerate(rows)]
    if suffix == ".jsonl":
        return "".join(json.dumps(record) + "\n" for record in records).encode()
    if suffix == ".json":
        return json.dumps(records, ensure_ascii=False).encode()
    if suffix in (".csv", ".tsv"):
        text = io.StringIO(newline="")
        delimiter = "," if suffix == ".csv" else "\t"
        writer = csv.DictWriter(text, ["number", "text"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue().encode()
    buffer, table = io.BytesIO(), pyarrow.Table.from_pylist(records)
    if suffix == ".parquet":
        pyarrow.parquet.write_table(table, buffer)
        return buffer.getvalue()
    with pyarrow.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
}


def write(folder, suffix, rows, compression=""):
    path = folder / f"rows{suffix}{compression}"
    path.write_bytes(COMPRESS[compression](encode(suffix, rows)))
    return path


def one_sentence(caught):
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 500, message
    return message


@given(ROWS, st.sampled_from(sorted(RULES)))
def test_the_documents_of_every_rule_joined_are_the_text(rows, rule):
    assert "".join(as_documents(split_documents(iter(rows), rule))) == "".join(rows)


@given(ROWS, st.sampled_from(sorted(RULES)))
def test_documents_that_flow_in_small_pieces_are_the_same(rows, rule):
    whole = as_documents(split_documents(iter(rows), rule))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE_SIZE", 5)
        pieces = list(split_documents(iter(rows), rule))
    assert as_documents(pieces) == whole
    assert all(len(text) <= 5 for text, _ in pieces)


@given(ROWS)
def test_rows_are_documents_lines_end_and_a_file_is_one(rows):
    assert as_documents(split_documents(iter(rows), "row")) == rows
    assert len(as_documents(split_documents(iter(rows), "file"))) == (1 if rows else 0)
    for line in as_documents(split_documents(iter(rows), "line")):
        assert "\n" not in line[:-1]


def test_paragraphs_part_where_blank_lines_end():
    text = ["\n", "a\n", "b\n", " \n", "\n", "c\n"]
    assert as_documents(split_documents(iter(text), "blank_line")) == ["\na\nb\n \n\n", "c\n"]


def test_an_article_starts_at_a_title_between_blank_rows():
    first = [" \n", " = One = \n", " \n", " text = \n", " = Not one = \n", " \n"]
    second = [" = Two = \n", " \n", " = = Part = = \n", " \n", "text\n"]
    found = as_documents(split_documents(iter(first + second), "article"))
    assert found == ["".join(first), "".join(second)]


@pytest.mark.parametrize("kind", ["txt", "parquet"])
def test_wikitext_2_has_600_and_60_and_60_articles(kind, wikitext):
    names = {"train": "train", "validation": "valid", "test": "test"}
    if kind == "parquet":
        names = {name: f"parquet/{name}" for name in names}
    paths = {name: str(wikitext / f"{path}.{kind}") for name, path in names.items()}
    splits = open_splits(as_config(**paths, document=DocumentRule.article))
    counts = {name: sum(ends for _, ends in split.pieces()) for name, split in splits.items()}
    assert counts == {"train": 600, "validation": 60, "test": 60}


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_rows(suffix, compression, tmp_path):
    path = write(tmp_path, suffix, LINES, compression)
    (part,) = TextFiles("text").parts(str(path))
    assert list(part.read()) == LINES
    assert list(part.read()) == LINES, "a second reading differs"
    whole = suffix in TEXT_FORMATS
    assert read(path) == (["".join(LINES)] if whole else LINES)


@pytest.mark.parametrize("compression", [name for name in COMPRESS if name])
def test_compressed_files_joined_are_all_read(compression, tmp_path):
    path = write(tmp_path, ".txt", LINES, compression)
    path.write_bytes(path.read_bytes() * 3)
    assert read(path) == ["".join(LINES) * 3]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".arrow"])
def test_a_null_is_an_empty_text(suffix, tmp_path):
    assert read(write(tmp_path, suffix, ["a", None, "b"])) == ["a", "", "b"]


def test_a_folder_and_a_glob_give_their_files_in_order_of_name(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "a.md", "deep/c.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "picture.png").write_bytes(b"\xff")
    assert read(tmp_path) == ["a.md", "b.txt", "deep/c.txt"]
    assert read(tmp_path / "*.txt") == ["b.txt"]
    assert read(tmp_path / "**" / "*.txt") == ["b.txt", "deep/c.txt"]


HIDDEN = [
    ".ipynb_checkpoints/a-checkpoint.txt",
    "._a.txt",
    ".hidden.jsonl",
    "deep/.git/b.md",
    "deep/._c.csv",
    "__MACOSX/._a.txt",
    "__MACOSX/a.txt",
]


def test_hidden_files_of_a_folder_are_left_out(tmp_path):
    folder = tmp_path / ".cache"  # a folder that is named may be hidden itself
    for name in ["a.txt", "deep/__d.txt", *HIDDEN]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0" if name in HIDDEN else name.encode())
    assert read(folder) == ["a.txt", "deep/__d.txt"]
    assert read(folder / "*.txt") == ["a.txt"]
    (folder / ".hidden.jsonl").write_text('{"text": "named"}')
    assert read(folder / ".hidden.jsonl") == ["named"]
    assert read(folder / ".*.jsonl") == ["named"]


def test_a_folder_of_hidden_files_has_none_to_read(tmp_path):
    (tmp_path / "._a.txt").write_bytes(b"\0")
    with pytest.raises(UserError, match="has no file to read"):
        read(tmp_path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("pattern", [".", "*"])
def test_files_that_describe_records_are_left_out_with_a_word(suffix, pattern, tmp_path, caplog):
    write(tmp_path, suffix, LINES)
    names = ["README.md", "LICENSE.txt", "dataset_infos.json", "dataset_info.json"]
    for name in names:
        (tmp_path / name).write_text("{}")
    with caplog.at_level(logging.WARNING, logger="lmft"):
        assert read(tmp_path / pattern) == LINES
    for name in names:
        assert caplog.text.count(f"{tmp_path / name} is left out") == 1
    assert read(tmp_path / "README.md") == ["{}"]


def test_a_readme_among_texts_is_read_with_a_word(tmp_path, caplog):
    for name in ("README.md", "a.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "dataset_infos.json").write_text("{}")
    with caplog.at_level(logging.WARNING, logger="lmft"):
        assert read(tmp_path) == ["README.md", "a.txt"]
    assert f"{tmp_path / 'README.md'} is read as one of the texts" in caplog.text
    assert f"{tmp_path / 'dataset_infos.json'} is left out" in caplog.text


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("train", [".", "*"])
@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_a_file_of_another_split_is_left_out_of_training(suffix, train, link, tmp_path, caplog):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}{suffix}").write_bytes(encode(suffix, [f"one {name}", f"two {name}"]))
    other = folder / f"b{suffix}"
    if link is not None:
        link(other, tmp_path / other.name)
        other = tmp_path / other.name
    for held in ("validation", "test"):
        splits = open_splits(as_config(train=str(folder / train), **{held: str(other)}))
        texts = {name: "".join(as_documents(split.pieces())) for name, split in splits.items()}
        assert texts[held] == "one btwo b"
        joined = texts["train"] + ("" if held == "validation" else texts["validation"])
        assert "b" not in joined and sorted(joined) == sorted("one atwo aone ctwo c")
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="lmft"):
            warn_of_overlap(splits)
        assert "Left out of training, since dataset.validation or dataset.test" in caplog.text
        assert str(folder / f"b{suffix}") in caplog.text


def test_training_files_that_are_all_validated_on_are_kept_with_a_warning(tmp_path, caplog):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    config = as_config(train=str(tmp_path / "a.txt"), validation=str(tmp_path))
    with caplog.at_level(logging.WARNING, logger="lmft"):
        warn_of_overlap(open_splits(config))
    assert as_documents(open_splits(config)["train"].pieces()) == ["a"]
    assert "reads all files of dataset.train" in caplog.text and "a.txt" in caplog.text


def test_a_digest_is_that_of_the_files_that_are_left(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    plain = TextFiles("text").digest(str(tmp_path / "[ac].txt"))
    apart = open_splits(as_config(train=str(tmp_path), validation=str(tmp_path / "b.txt")))
    assert apart["train"].source.digest(str(tmp_path)) == plain
    (tmp_path / ".d.txt").write_text("hidden")
    assert apart["train"].source.digest(str(tmp_path)) == plain


@pytest.mark.parametrize("path", ["missing.txt", "*.jsonl", "empty"])
def test_a_path_without_files_is_named(path, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        read(tmp_path / path)
    assert path in one_sentence(caught)


@pytest.mark.parametrize("suffix", RECORD_FORMATS)
def test_a_column_that_is_not_there_is_named_with_those_that_are(suffix, tmp_path):
    path = write(tmp_path, suffix, LINES)
    with pytest.raises(UserError) as caught:
        read(path, column="body")
    for word in ("dataset.text_column", "'body'", str(path), "number", "text"):
        assert word in one_sentence(caught)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".arrow"])
def test_a_column_of_numbers_is_refused(suffix, tmp_path):
    path = write(tmp_path, suffix, LINES)
    with pytest.raises(UserError) as caught:
        read(path, column="number")
    assert "dataset.text_column" in one_sentence(caught) and "int" in str(caught.value)


def refusal(path, content):
    """The sentence that refuses a file."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(path) in one_sentence(caught)
    return str(caught.value)


CSV = {  # content of a file -> what its refusal says
    "id,text\n1,fine\n2,cut here, and, here, too\n": "line 3 has 5 fields, the header 2;",
    "id,text\n1,fine\n\n2\n": "line 4 has 1 field, the header 2;",
    'id,text\n1,"two\nlines"\n2,a,b\n': "line 4 has 3 fields, the header 2;",
    'id,text\n1,fine\n2,"open\n3,fine\n4,fine\n': "line 3 is not CSV (a field that opens with a",
    'id,text\n1,fine\n2,"open\n3,"shut"\n': "closing quote of a field, line 4)",
    'id,text\n1,fine\n2,"shut" and on\n': "line 3 is not CSV (text follows the closing quote",
    'id,"text\n1,fine\n': "line 1 is not CSV (",
    "text,label,text\na,b,c\n": "'text', but",
    "id,text\r1,fine\r": "line 1 is not CSV (",
}


@pytest.mark.parametrize("content, part", CSV.items())
@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"], ids=["", "bom"])
def test_a_csv_file_that_would_be_read_wrongly_is_refused(content, part, prefix, tmp_path):
    assert part in refusal(tmp_path / "rows.csv", prefix + content.encode())


def test_quotes_commas_and_blank_lines_of_a_csv_file_are_read(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b'id,text,id\r\n\r\n1,"a ""b"", c\r\nd",1\r\n2,e "f" g,2\r\n3,,\r\n\r\n4,"",4\r\n'
    )
    assert read(path) == ['a "b", c\nd', 'e "f" g', "", ""]


def test_columns_of_one_name_are_refused_if_it_is_the_text_s(tmp_path):
    assert "2 columns of that name;" in refusal(tmp_path / "a.csv", "text,n,text\na,1,b\n")
    for name, content in {
        "a.jsonl, line": '{"text": "a"}\n{"text": "a", "n": 1, "text": "b"}\n',
        "a.json, record": '[{"text": "a"}, {"text": "a", "n": 1, "text": "b"}]',
    }.items():
        file, unit = name.split(", ")
        assert f"2 columns of that name in {unit} 2;" in refusal(tmp_path / file, content)
    columns = [pyarrow.array(["a"]), pyarrow.array([1]), pyarrow.array(["b"])]
    buffer = io.BytesIO()
    names = ["text", "n", "text"]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names=names), buffer)
    assert "2 columns of that name;" in refusal(tmp_path / "a.parquet", buffer.getvalue())
    (tmp_path / "b.jsonl").write_text('{"n": 1, "text": "a", "n": 2, "m": {"text": 1, "text": 2}}')
    assert read(tmp_path / "b.jsonl") == ["a"]
    (tmp_path / "b.csv").write_text("n,text,n\n1,a,2\n")
    assert read(tmp_path / "b.csv") == ["a"]


@pytest.mark.parametrize(
    "name, content, part",
    [
        ("rows.txt", b"one\ntwo\ncaf\xe9\n", "line 3"),
        ("rows.txt", b"\xef\xbb\xbfone\ntwo\0\n", "line 2"),
        ("rows.csv", b"text\none\ncaf\xe9\n", "line 3"),
        ("rows.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', "line 2"),
        ("rows.jsonl", b'{"text": "a"}\n\n{"text": 5}\n', "int there in line 3"),
        ("rows.jsonl", b'{"text": "a"}\n{"body": "b", "n": 1}\n', "has body, n in line 2"),
        ("rows.json", b'[{"text": "a"},\n{"text": 5}]', "int there in record 2"),
        ("rows.json", b'[{"text": "a"},\n{"text": "\\ud83d"}]', "in record 2"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
def test_a_refused_record_is_named_by_its_number(name, content, part, chunk, tmp_path, monkeypatch):
    monkeypatch.setattr("lmft.dataset.decoding.CHUNK", chunk)
    assert part in refusal(tmp_path / name, content)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["rows.txt", "rows.csv", "rows.jsonl"])
def test_a_wide_encoding_is_named_with_the_command_that_converts_it(name, encoding, tmp_path):
    told = refusal(tmp_path / name, "text\nthe caf\xe9 of my cat\n".encode(encoding))
    named = re.search(rf"{name} is in (\S+), not UTF-8; convert it: iconv -f (\S+) -t utf-8", told)
    assert named[1].lower() == named[2] == encoding.replace("-le", "le").replace("-be", "be")


def test_a_refused_record_of_a_later_page_of_parquet_is_named(tmp_path):
    texts = pyarrow.array([b"a"] * 70_000 + [b"caf\xe9"], pyarrow.binary())
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": texts.view(pyarrow.string())}), buffer)
    assert "in record 70001," in refusal(tmp_path / "rows.parquet", buffer.getvalue())


BROKEN = {
    **{f"{suffix}{c}": (suffix, c, 0.6) for suffix in (".txt", ".parquet") for c in COMPRESS if c},
    **{suffix: (suffix, "", 0.6) for suffix in (".jsonl", ".json", ".parquet", ".arrow")},
}


@pytest.mark.parametrize("suffix, compression, kept", BROKEN.values(), ids=BROKEN)
def test_a_file_that_was_cut_off_is_named(suffix, compression, kept, tmp_path):
    path = write(tmp_path, suffix, [line * 50 for line in LINES], compression)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(path) in one_sentence(caught)


@pytest.mark.parametrize(
    "suffix", [".txt.gz", ".txt.xz", ".txt.zst", ".txt.bz2", ".parquet", ".arrow", ".json"]
)
def test_a_file_that_is_something_else_is_named(suffix, tmp_path):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(b"this is none of these formats\n" * 20)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(path) in one_sentence(caught)


def test_damage_in_the_middle_of_a_parquet_file_is_named(tmp_path):
    path = write(tmp_path, ".parquet", [line * 50 for line in LINES])
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(path) in one_sentence(caught)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".csv"])
@pytest.mark.parametrize("compression", ["", ".gz"])
def test_text_that_is_not_utf_8_is_named(suffix, compression, tmp_path):
    path = tmp_path / f"rows{suffix}{compression}"
    content = encode(suffix, ["caf#\n"]).replace(b"#", b"\xe9")
    path.write_bytes(COMPRESS[compression](content))
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(path) in one_sentence(caught) and "0xe9" in str(caught.value)


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_half_a_character_is_refused(suffix, tmp_path):
    path = tmp_path / f"rows{suffix}"
    record = '{"text": "\\ud83d"}'
    path.write_text(record if suffix == ".jsonl" else f"[{record}]")
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(path) in one_sentence(caught)


@given(st.integers(2, 60), st.floats(0.01, 0.99))
def test_held_out_documents_are_whole_disjoint_and_the_same_every_time(tmp_path_factory, n, part):
    path = tmp_path_factory.mktemp("held") / "rows.jsonl"
    rows = [f"document {number}\n" for number in range(n)]
    path.write_bytes(encode(".jsonl", rows))

    def split():
        splits = open_splits(as_config(train=str(path), validation_fraction=part))
        return {name: as_documents(some.pieces()) for name, some in splits.items()}

    found = split()
    assert set(found) == {"train", "validation"}
    assert sorted(found["train"] + found["validation"]) == sorted(rows)
    assert [row for row in rows if row in found["train"]] == found["train"], "order is lost"
    assert len(found["validation"]) == min(n - 1, max(1, round(part * n)))
    assert split() == found


def test_a_single_document_cannot_be_held_out(tmp_path):
    path = write(tmp_path, ".txt", LINES)
    with pytest.raises(UserError) as caught:
        as_documents(open_splits(as_config(train=str(path)))["validation"].pieces())
    assert "dataset.validation" in one_sentence(caught)


@pytest.mark.parametrize("count", [1, 3, 7, 100])
def test_max_documents_keeps_the_first_of_each_split(count, tmp_path):
    rows = [f"document {number}" for number in range(20)]
    path = str(write(tmp_path, ".jsonl", rows))
    all_of = open_splits(as_config(train=path))
    some_of = open_splits(as_config(train=path, max_documents=count))
    for name, split in some_of.items():
        assert as_documents(split.pieces()) == as_documents(all_of[name].pieces())[:count]


def test_training_text_that_is_also_validated_on_gets_a_warning(tmp_path, caplog):
    path, other = write(tmp_path, ".txt", LINES), tmp_path / "other.txt"
    other.write_bytes(path.read_bytes())
    with caplog.at_level(logging.WARNING, logger="lmft"):
        warn_of_overlap(open_splits(as_config(train=str(path), validation=str(other))))
    assert "dataset.validation has the same content as dataset.train" in caplog.text
    caplog.clear()
    other.write_text("something else")
    with caplog.at_level(logging.WARNING, logger="lmft"):
        warn_of_overlap(open_splits(as_config(train=str(path), validation=str(other))))
        warn_of_overlap(open_splits(as_config(train=str(path))))
    assert not caplog.text


def test_a_digest_follows_content_and_not_file_times_or_names(tmp_path):
    def find(path, **changes):
        return open_splits(as_config(train=str(path), **changes))["train"].digest()

    path = write(tmp_path, ".txt", LINES)
    first = find(path)
    os.utime(path, (0, 0))
    assert find(path) == first
    moved = path.rename(tmp_path / "moved.txt")
    assert find(moved) == first
    others = [
        find(moved, validation=str(moved)),
        find(moved, validation_fraction=0.5),
        find(moved, max_documents=2),
        find(moved, document=DocumentRule.line),
        find(moved, source=TextFiles("body")),
    ]
    moved.write_text("".join(LINES) + "!")
    assert len({first, *others, find(moved)}) == 7


def test_python_s_documentation_holds_out_20_topics():
    from pydoc_data.topics import topics

    source = PythonDocs()
    paths = {"train": "train", "validation": "validation"}
    splits = open_splits(as_config(name="python_docs", source=source, **paths))
    found = {name: as_documents(split.pieces()) for name, split in splits.items()}
    assert len(found["validation"]) == 20
    assert sorted(found["train"] + found["validation"]) == sorted(topics.values())
    assert splits["train"].digest() != splits["validation"].digest()


@given(st.lists(st.text(alphabet="ab\n", max_size=9), max_size=6))
def test_one_document_starts_at_a_title_between_blank_rows_whatever_is_before(rows):
    rows = [row.replace("\n", "") + "\n" for row in rows]
    text = ["start\n", *rows, " \n", " = Title = \n", " \n", "end\n"]
    found = as_documents(split_documents(iter(text), "article"))
    assert len(found) == 2 and found[1] == " = Title = \n \nend\n"


def test_a_record_of_the_hub_that_is_not_text_is_refused_with_its_number(monkeypatch):
    import datasets

    table = datasets.Dataset.from_dict({"text": ["a", None, "b"], "label": [None, 2, 3]})
    monkeypatch.setattr("lmft.dataset.sources.resolve_commit", lambda *_: "commit")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)

    def read_column(column):
        (part,) = HubDataset("owner/name", None, "main", column, "row").parts("train")
        return list(part.read())

    assert read_column("text") == ["a", "", "b"]
    with pytest.raises(UserError) as caught:
        read_column("label")
    assert "owner/name holds int there in record 2," in one_sentence(caught)


def test_a_list_gives_the_files_of_its_paths_in_its_order_and_each_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("b/2.txt", "b/1.md", "a.txt", "c.txt", "notes/n.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    os.symlink(tmp_path / "b" / "2.txt", tmp_path / "link.txt")
    paths = [f"{tmp_path}/c.txt", f"{tmp_path}/b", f"{tmp_path}/**/*.txt", "~/notes", "~/link.txt"]
    config = as_config(train=paths, test=paths[:1])
    splits = open_splits(config)
    texts = {name: as_documents(split.pieces()) for name, split in splits.items()}
    assert texts["test"] == ["c.txt"]
    held = texts["validation"]
    assert sorted(texts["train"] + held) == ["a.txt", "b/1.md", "b/2.txt", "notes/n.txt"]
    assert as_documents(open_splits(as_config(test=paths))["test"].pieces()) == [
        "c.txt", "b/1.md", "b/2.txt", "a.txt", "notes/n.txt",
    ]  # fmt: skip
    assert splits["train"].location() == ", ".join(
        str(tmp_path / name) for name in ("c.txt", "b", "**/*.txt", "notes", "link.txt")
    )


def test_a_list_of_one_is_its_path_and_the_order_of_a_list_counts(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    a, b = f"{tmp_path}/a.txt", f"{tmp_path}/b.txt"
    source = TextFiles("text")
    assert source.digest([a]) == source.digest(a)
    assert source.digest([a, b, a]) == source.digest(str(tmp_path)) != source.digest([b, a])


@pytest.mark.parametrize("bad", ["gone.txt", "*.gone", "empty", "picture.png"])
def test_a_path_of_a_list_that_names_no_file_is_named(bad, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UserError) as caught:
        TextFiles("text").paths([f"{tmp_path}/a.txt", f"{tmp_path}/{bad}"])
    assert repr(f"{tmp_path}/{bad}") in one_sentence(caught)


@pytest.mark.parametrize("name", ["corpus", "wiki.valid.raw", "corpus.de", "book.gz"])
def test_a_file_of_another_name_that_is_named_itself_is_text(name, tmp_path, caplog):
    content = "".join(LINES).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with caplog.at_level(logging.WARNING, logger="lmft"):
        assert read(tmp_path / name) == ["".join(LINES)]
    assert caplog.text.count(f"{tmp_path / name} is read as text") == 1
    (tmp_path / "a.txt").write_text("a")
    assert read(tmp_path) == ["a"], "in a folder it is left out"


def test_a_list_is_for_sources_that_read_files():
    with pytest.raises(UserError, match="add dataset=text_files"):
        open_splits(as_config(name="python_docs", source=PythonDocs(), train=["train"]))


@pytest.mark.parametrize("delimiter", [";", "|", r"\t"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_a_delimiter_parts_fields_and_is_part_of_the_digest(delimiter, name, tmp_path):
    path = tmp_path / name
    path.write_text(
        'id;text;n\n1;"a; b, c";2\n2;d,e;3\n'.replace(";", delimiter[-1:].replace("t", "\t"))
    )
    config = as_config(test=str(path), delimiter=delimiter)
    split = open_splits(config)["test"]
    first = "a; b, c".replace(";", delimiter[-1:].replace("t", "\t"))
    assert as_documents(split.pieces()) == [first, "d,e"]
    assert split.digest() != open_splits(as_config(test=str(path)))["test"].digest()
    if name == "rows.csv":
        with pytest.raises(UserError) as caught:
            read(path)
        assert f"set 'dataset.delimiter={delimiter}'" in one_sentence(caught)


def test_a_dataset_that_was_saved_to_disk_is_read(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"text": LINES}).save_to_disk(tmp_path / "saved", num_shards=2)
    assert read(tmp_path / "saved") == LINES


def test_a_nested_column_of_the_hub_is_read_by_its_path(monkeypatch):
    import datasets

    table = datasets.Dataset.from_dict({"article": [{"body": "a"}, None, {"body": None}]})
    monkeypatch.setattr("lmft.dataset.sources.resolve_commit", lambda *_: "commit")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    (part,) = HubDataset("owner/name", None, "main", "article.body", "row").parts("train")
    assert list(part.read()) == ["a", "", ""]
