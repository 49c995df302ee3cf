"""Records of files: the same in every format, and named by where they are."""

import io
import json
import tracemalloc

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmft.config.dataset_knobs import TextErrors
from lmft.dataset.formats.record import Reading, names_of
from lmft.dataset.readers import read_names, read_records, read_rows
from lmft.errors import UserError

RECORDS = [
    {"id": 1, "article": {"title": "one", "body": "the cat"}, "tags": ["a"]},
    {"id": 2, "article": {"title": "two", "body": None}, "tags": []},
    {"id": 3, "article": None, "tags": ["b", "c"]},
]


def as_stream(table):
    buffer = io.BytesIO()
    with pyarrow.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def as_arrow_file(table):
    buffer = io.BytesIO()
    with pyarrow.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return buffer.getvalue()


def as_parquet(table):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


TABLE = pyarrow.Table.from_pylist(RECORDS)
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)
LAYOUTS = {  # file -> content
    "a.jsonl": LINES.encode(),
    "lines.json": LINES.encode(),
    "array.json": json.dumps(RECORDS).encode(),
    "pretty.json": json.dumps(RECORDS, indent=2).encode(),
    "data.json": json.dumps({"version": "1.0", "data": RECORDS}, indent=1).encode(),
    "a.parquet": as_parquet(TABLE),
    "stream.arrow": as_stream(TABLE),
    "file.arrow": as_arrow_file(TABLE),
}


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_has_the_same_records(name, chunk, tmp_path, monkeypatch):
    monkeypatch.setattr("lmft.dataset.decoding.CHUNK", chunk)
    path = write(tmp_path, name, LAYOUTS[name])
    records = list(read_records(path, Reading()))
    assert [record.values for record in records] == RECORDS
    assert [record.number for record in records] == [1, 2, 3]
    assert {record.where for record in records} == {str(path)}
    assert records[1].place == ("line 2" if name in ("a.jsonl", "lines.json") else "record 2")


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_columns_of_a_file_are_known_before_its_records(name, tmp_path):
    path = write(tmp_path, name, LAYOUTS[name])
    assert read_names(path, Reading()) == ["id", "article", "tags"]


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
def test_a_column_that_is_not_needed_may_hold_anything(name, tmp_path):
    raw = pyarrow.array([b"\xff"]).cast(pyarrow.string(), safe=False)
    table = pyarrow.table({"text": ["the cat"], "raw": raw})
    as_bytes = {"a.parquet": as_parquet, "stream.arrow": as_stream, "file.arrow": as_arrow_file}
    path = write(tmp_path, name, as_bytes[name](table))
    assert read_names(path, Reading()) == ["text", "raw"]
    assert list(read_rows(path, "text", TextErrors.strict)) == ["the cat"]
    with pytest.raises(UserError, match="not UTF-8 .0xff. in record 1"):
        list(read_records(path, Reading()))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_column_inside_another_is_found_by_its_path(name, tmp_path):
    path = write(tmp_path, name, LAYOUTS[name])
    assert list(read_rows(path, "article.body", TextErrors.strict)) == ["the cat", "", ""]
    for column, told in {
        "article.text": "has article.title, article.body in ",
        "articles.body": "has id, article, tags",
        "tags.body": "holds list in tags in ",
        "article": "holds dict there in ",
    }.items():
        with pytest.raises(UserError, match=f"dataset.text_column is '{column}'") as caught:
            list(read_rows(path, column, TextErrors.strict))
        assert told in str(caught.value) and str(caught.value).endswith(".")


def test_a_column_whose_own_name_has_a_dot_comes_first(tmp_path):
    record = {"article.body": "whole", "article": {"body": "inner"}}
    for name, content in {
        "a.jsonl": json.dumps(record),
        "a.parquet": as_parquet(pyarrow.Table.from_pylist([record])),
        "a.arrow": as_stream(pyarrow.Table.from_pylist([record])),
        "a.csv": "article.body,article\nwhole,inner\n",
    }.items():
        path = write(tmp_path, name, content)
        assert list(read_rows(path, "article.body", TextErrors.strict)) == ["whole"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(
    records=st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), max_size=4),
    indent=st.sampled_from([None, 1]),
    chunk=st.integers(1, 9),
)
def test_json_in_chunks_is_what_json_reads_at_once(records, indent, chunk, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(records, indent=indent, ensure_ascii=indent is None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmft.dataset.decoding.CHUNK", chunk)
        found = [record.values for record in read_records(path, Reading())]
    assert json.dumps(found) == json.dumps(records)


BROKEN = {  # content of a .json file -> what its refusal says
    '[{"a": 1},\n{"a": tru}]': "line 2 is not JSON (Expecting value)",
    '[{"a": 1},\n{"a": 2}\n': "line 3 is not JSON (Expecting ',' delimiter)",
    '[{"a": 1},\n{"a": 2}]\n]': "line 3 is not JSON (Extra data)",
    '[{"a": 1}\n{"a": 2}]': "line 2 is not JSON (Expecting ',' delimiter)",
    '[{"a": 1},\n]': "line 2 is not JSON (Expecting value)",
    '{"a": 1}\n{"a": "open': "line 2 is not JSON (Unterminated string)",
    '{"a": 1}\n{"a": "a\tb"}': "line 2 is not JSON (Invalid control character)",
    '{"a": 1}\nnull\n': "NoneType in line 2, not an object",
    "null": "NoneType in line 1, not an object",
    '[{"a": 1}, 5]': "int in record 2, not an object",
    '{"data": [{"a": 1}, []]}': "list in record 2, not an object",
}


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_json_that_is_wrong_is_named_by_its_line(content, chunk, tmp_path, monkeypatch):
    monkeypatch.setattr("lmft.dataset.decoding.CHUNK", chunk)
    with pytest.raises(UserError) as caught:
        list(read_records(write(tmp_path, "a.json", content), Reading()))
    assert BROKEN[content] in str(caught.value) and str(caught.value).endswith(".")


def test_an_early_mistake_is_reported_before_the_rest_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("lmft.dataset.decoding.CHUNK", 100)
    monkeypatch.setattr("lmft.dataset.formats.json_records.MOST", 1000)
    monkeypatch.setattr("lmft.dataset.formats.delimited.MOST", 1000)
    rest, file = b" and on" * 1000 + b"\xff", ".jsonl file."
    for name, content, told in [
        ("a.json", b'[{"a" 1}' + rest, "line 1 is not JSON (Expecting ':' delimiter)"),
        ("a.json", b'[{"a": "open' + rest, "a value of more than 1.0 kB in line 1; close its"),
        ("a.json", b'{"data": [' + b"1," * 9000 + rest, "or write one record a line in a " + file),
        (
            "a.csv",
            b'text\n"open' + b" and on\n" * 1000 + rest,
            "line 2 is not CSV (a field of more ",
        ),
    ]:
        with pytest.raises(UserError) as caught:
            list(read_records(write(tmp_path, name, content), Reading()))
        assert told in str(caught.value)


def test_a_large_array_is_read_in_little_memory(tmp_path):
    path = tmp_path / "a.json"
    item = json.dumps({"text": "the cat sat on a mat " * 50})
    path.write_text("[" + ",\n".join([item] * 20_000) + "]")
    tracemalloc.start()
    count = sum(1 for _ in read_records(path, Reading()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000 and peak < 12e6 < path.stat().st_size


def test_names_that_occur_twice_are_kept_in_mind(tmp_path):
    for name, content in {"a.csv": "a,b,a\n1,2,3\n", "a.jsonl": '{"a": 1, "b": 2, "a": 3}'}.items():
        (record,) = read_records(write(tmp_path, name, content), Reading())
        assert names_of(record.values) == ["a", "b", "a"]


def test_bytes_that_are_not_utf_8_are_found_inside_of_columns(tmp_path):
    body = pyarrow.array([b"a", b"caf\xe9"], pyarrow.binary()).view(pyarrow.string())
    article = pyarrow.StructArray.from_arrays([body], ["body"])
    path = write(tmp_path, "a.parquet", as_parquet(pyarrow.table({"article": article})))
    assert list(read_rows(path, "article.body", TextErrors.replace)) == ["a", "caf\ufffd"]
    with pytest.raises(UserError, match=r"\(0xe9\) in record 2, .* dataset.errors=replace"):
        list(read_rows(path, "article.body", TextErrors.strict))
