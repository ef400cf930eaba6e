"""Formats are taken apart without losing or inventing records."""

from __future__ import annotations

import gzip
import io

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigurationError
from tasks.download.formats import FieldChoice, parse_json_line, read_stream

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT)
def test_a_json_line_gives_back_its_text(text: str) -> None:
    record = parse_json_line(orjson.dumps({"text": text}), "a:1", ["text"])
    assert (record.text, record.defect) == (text, None)


@given(st.binary(max_size=200))
def test_no_line_raises_and_every_defect_is_named(line: bytes) -> None:
    record = parse_json_line(line, "a:1", ["text"])
    assert record.defect in (
        "malformed JSON line",
        "JSON line is not an object",
        "a text field is missing or not text",
        "invalid UTF-8",
    )
    record.text.encode()


def test_a_bad_line_does_not_hide_the_lines_after_it() -> None:
    lines = b'{"text": "one"}\n{"text": broken\n\n{"text": "two"}\n[1]\n{"other": 1}\n'
    records = list(read_stream(io.BytesIO(lines), "x.jsonl", FieldChoice()))
    assert [record.text for record in records if record.defect is None] == ["one", "two"]
    assert [record.origin for record in records] == [
        "x.jsonl:1",
        "x.jsonl:2",
        "x.jsonl:4",
        "x.jsonl:5",
        "x.jsonl:6",
    ]


def test_distinct_passages_come_once_and_fields_are_joined() -> None:
    lines = b'{"a": "p", "b": "1"}\n{"a": "p", "b": "1"}\n{"a": "p", "b": "2"}\n'
    fields = FieldChoice(text_fields=("a", "b"), distinct=True)
    assert [record.text for record in read_stream(io.BytesIO(lines), "x.jsonl", fields)] == ["p\n\n1", "p\n\n2"]


def test_star_takes_every_text_of_a_record() -> None:
    line = orjson.dumps({"question": "q", "choices": ["a", "b"], "answer": 3})
    assert parse_json_line(line, "x:1", ["*"]).text == "q\n\na\n\nb"


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_compressed_lines_are_read(suffix: str) -> None:
    lines = b'{"text": "one"}\n{"text": "two"}\n'
    packed = gzip.compress(lines) if suffix.endswith("gz") else pa.Codec("zstd").compress(lines, asbytes=True)
    records = read_stream(io.BytesIO(packed), "x" + suffix, FieldChoice())
    assert [record.text for record in records] == ["one", "two"]


def test_a_cut_off_gzip_file_gives_what_it_has_and_says_so() -> None:
    lines = b"".join(b'{"text": "%d"}\n' % number for number in range(20000))
    records = list(read_stream(io.BytesIO(gzip.compress(lines)[:-2000]), "x.jsonl.gz", FieldChoice()))
    assert len(records) > 1000
    assert records[-1].defect == "damaged gzip: it is cut off"


def test_csv_and_parquet_rows() -> None:
    csv_bytes = b'text,label\n"one, with a comma",1\ntwo,2\n'
    assert [r.text for r in read_stream(io.BytesIO(csv_bytes), "x.csv", FieldChoice())] == [
        "one, with a comma",
        "two",
    ]
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": ["one", None]}), buffer)
    records = list(read_stream(io.BytesIO(buffer.getvalue()), "x.parquet", FieldChoice()))
    assert [record.defect is None for record in records] == [True, False]


def test_undecodable_text_is_set_aside() -> None:
    (record,) = read_stream(io.BytesIO(b"caf\xe9"), "x.txt", FieldChoice())
    assert (record.defect, record.figure) == ("invalid UTF-8", 3)


def test_long_text_is_cut_at_paragraphs_and_nothing_is_lost() -> None:
    text = "\n\n".join("word " * 2000 for _ in range(100))
    parts = [record.text for record in read_stream(io.BytesIO(text.encode()), "x.txt", FieldChoice())]
    assert len(parts) > 2
    assert "".join(parts) == text


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"x\.docx.*unknown format.*\.jsonl"):
        list(read_stream(io.BytesIO(b""), "x.docx", FieldChoice()))
