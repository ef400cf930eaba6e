"""Input made to break a reader: each case is handled, counted and named, and memory stays bounded."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.artifacts import Artifact
from infra.errors import SourceError
from tasks.documents import Document, document_ids, iterate_texts, read_table
from tasks.download.formats import FilePlace, ReadLimits, Record, read_stream, read_stream_batches, records_of
from tasks.download.formats.record import FieldChoice
from tasks.download.sources.wheels import read_member

ANY = FieldChoice()
LINES = b"".join(b'{"text": "text number %d"}\n' % number for number in range(3000))


def read(data: bytes, name: str, **limits: int) -> list[Record]:
    return list(read_stream(io.BytesIO(data), name, ANY, ReadLimits(**limits)))


def defects(records: list[Record]) -> list[str]:
    return [record.defect for record in records if record.defect is not None]


def texts(records: list[Record]) -> list[str]:
    return [record.text for record in records if record.defect is None]


def removed(artifact: Artifact) -> list[tuple[str, float]]:
    tables = [read_table(path) for path in artifact.paths("removed/")]
    rows = [row for table in tables for row in table.to_pylist()]
    return [(row["reason"], row["score"]) for row in rows]


class EndlessLine:
    """A good line, a line of `size` bytes that is made while it is read, a good line."""

    def __init__(self, size: int) -> None:
        self._parts = [b'{"text": "before"}\n{"text": "', size, b'"}\n{"text": "after"}\n']
        self._block = b"x" * (1 << 20)

    def read(self, size: int = -1) -> bytes:
        if not self._parts:
            return b""
        part = self._parts[0]
        if isinstance(part, bytes):
            self._parts.pop(0)
            return part
        block = self._block[: min(size if size > 0 else len(self._block), part)]
        self._parts[0] = part - len(block)
        if self._parts[0] == 0:
            self._parts.pop(0)
        return block


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_a_line_of_two_gigabytes_is_one_defect_in_little_memory(name: str) -> None:
    size = 2 << 30
    stream = EndlessLine(size)
    if name == "x.csv":
        stream._parts = [b"text\nbefore\n", size, b"\nafter\n"]
    tracemalloc.start()
    records = [
        record
        for batch in read_stream_batches(stream, FilePlace(name), ANY, ReadLimits(line_bytes=8 << 20))  # type: ignore[arg-type]
        for record in records_of(batch)
    ]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sorted(texts(records)) == ["after", "before"]
    (defective,) = [record for record in records if record.defect]
    assert defective.defect == "line over the size limit"
    expected = {"x.jsonl": ("x.jsonl:2", size + len('{"text": ""}')), "x.csv": ("x.csv:3", size)}
    assert (defective.origin, defective.figure) == expected[name]
    assert peak < 64 << 20


def test_text_without_a_line_feed_stays_bounded() -> None:
    records = read("ä".encode() * 300_000, "x.txt", document_bytes=100_001)
    assert not defects(records)
    assert "".join(texts(records)) == "ä" * 300_000


def test_a_million_empty_documents_are_counted_in_bulk(tmp_path: Path, download: Callable[..., Artifact]) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(b'{"text":""}\n' * 1_000_000 + b'{"text":"full"}\n')
    artifact = download([{"name": "mine", "uri": str(path)}])
    assert list(iterate_texts(artifact)) == ["full"]
    rows = removed(artifact)
    assert len(rows) < 100
    assert sum(score for reason, score in rows if reason == "empty") == 1_000_000
    assert artifact.manifest.statistics["sources"]["mine"]["removed"] == {"empty": 1_000_000}


def test_invalid_utf8_is_set_aside_with_its_place_in_the_file() -> None:
    good = b'{"text": "one"}\n'
    records = read(good + b'{"text": "\xff"}\n' + good, "x.jsonl")
    assert texts(records) == ["one", "one"]
    (defective,) = [record for record in records if record.defect]
    assert (defective.defect, defective.figure, defective.origin) == ("invalid UTF-8", 26.0, "x.jsonl:2")
    assert defects(read(b"text\none\n\xff\xfe\ntwo\n", "x.csv")) == ["invalid UTF-8"]
    assert texts(read(b"text\none\n\xff\xfe\ntwo\n", "x.csv")) == ["one", "two"]
    table = pa.table({"text": pa.array([b"ok", b"\xff", b"fine"], pa.binary()).cast(pa.string(), safe=False)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    records = read(buffer.getvalue(), "x.parquet")
    assert (texts(records), defects(records)) == (["ok", "fine"], ["invalid UTF-8"])


def test_nul_bytes_are_set_aside_wherever_they_come_from(tmp_path: Path, download: Callable[..., Artifact]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(b"begin\0end")
    (tmp_path / "in" / "b.jsonl").write_bytes(b'{"text": "good"}\n{"text": "a\\u0000b"}\n')
    artifact = download([{"name": "mine", "uri": str(tmp_path / "in")}])
    assert removed(artifact) == [("contains NUL bytes", 0.0), ("contains NUL bytes", 0.0)]
    assert list(iterate_texts(artifact)) == ["good"]


def pack(packing: str, data: bytes) -> bytes:
    if packing == "zst":
        return pa.Codec("zstd").compress(data, asbytes=True)
    return {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[packing](data)


@pytest.mark.parametrize("packing", ["gz", "zst", "bz2", "xz"])
def test_cut_off_and_damaged_packing_costs_only_what_is_lost(packing: str) -> None:
    lines = b"".join(b'{"text": "%d %d"}\n' % (number, hash((number, 1)) % 10**15) for number in range(40_000))
    packed = pack(packing, lines)
    assert len(texts(read(packed, f"x.jsonl.{packing}"))) == 40_000
    assert len(texts(read(packed + packed, f"x.jsonl.{packing}"))) == 80_000
    cut = read(packed[: len(packed) * 3 // 4], f"x.jsonl.{packing}")
    if packing != "bz2":  # bzip2 packs in blocks of 900 kB: this text is one or two
        assert 1000 < len(texts(cut)) < 40_000
    assert defects(cut)[-1].startswith("damaged ")
    assert cut[-1].origin == f"x.jsonl.{packing}"
    if packing != "zst":  # its checksum is optional, and pyarrow writes none
        flipped = bytearray(packed)
        flipped[len(packed) // 2] ^= 0x55
        assert any(defect.startswith("damaged ") for defect in defects(read(bytes(flipped), f"x.jsonl.{packing}")))
    assert defects(read(b"not packed at all", f"x.jsonl.{packing}"))


@pytest.mark.parametrize("packing", ["gz", "zst", "bz2", "xz"])
def test_a_bomb_is_not_unpacked(packing: str) -> None:
    bomb = pack(packing, b"0" * (24 << 20))
    records = read(bomb, f"x.txt.{packing}", ratio_matters_bytes=1 << 20)
    assert defects(records)[-1].endswith("unpacks to over the ratio limit")
    assert sum(len(record.text) for record in records) < 12 << 20
    records = read(pack(packing, LINES), f"x.jsonl.{packing}", unpacked_bytes=10_000, ratio_matters_bytes=1 << 30)
    assert defects(records)[-1].endswith("unpacks to over the size limit")


def test_members_of_archives_are_bounded_too() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.txt", b"0" * (8 << 20))
        archive.writestr("damaged.jsonl", LINES)
        archive.writestr("good.jsonl", LINES)
    data = bytearray(buffer.getvalue())
    start = data.find(b"damaged.jsonl") + 2000
    data[start : start + 50] = b"\x00" * 50
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        limits = ReadLimits(ratio_matters_bytes=1 << 20)
        bomb = list(read_member(archive, "bomb.txt", ANY, limits))
        assert defects(bomb) == ["zip member unpacks to over the ratio limit"]
        assert defects(list(read_member(archive, "damaged.jsonl", ANY)))[-1].startswith("damaged zip member")
        assert len(texts(list(read_member(archive, "good.jsonl", ANY)))) == 3000


def parquet_bytes(groups: int) -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"text": [f"row {row} {hash((row, 2))}" for row in range(groups * 500)]})
    pq.write_table(table, buffer, row_group_size=500, compression="zstd")
    return buffer.getvalue()


def test_a_cut_off_parquet_file_is_one_defect_and_the_others_go_on(
    tmp_path: Path, download: Callable[..., Artifact]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.parquet").write_bytes(parquet_bytes(4)[:-300])
    (folder / "b.parquet").write_bytes(parquet_bytes(1))
    artifact = download([{"name": "mine", "uri": str(folder)}])
    assert artifact.manifest.statistics["sources"]["mine"]["kept"] == 500
    assert artifact.manifest.statistics["sources"]["mine"]["removed"] == {"damaged Parquet": 1}
    (folder / "b.parquet").unlink()
    with pytest.raises(SourceError, match=r"no source yielded a document; found mine: damaged Parquet \(1\)"):
        download([{"name": "mine", "uri": str(folder)}])


def test_a_damaged_row_group_costs_itself() -> None:
    data = bytearray(parquet_bytes(4))
    group = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(1).column(0)
    start = group.dictionary_page_offset or group.data_page_offset
    data[start + 40 : start + 90] = b"\xaa" * 50
    records = read(bytes(data), "x.parquet")
    assert defects(records) == ["damaged Parquet"]
    assert len(texts(records)) == 1500
    assert records[500].origin == "x.parquet#row-group-1"


def test_a_file_without_the_column_is_one_defect_that_names_the_columns() -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"body": ["x"]}), buffer)
    for data, name in ((buffer.getvalue(), "x.parquet"), (b"body,other\n1,2\n3,4\n", "x.csv")):
        (record,) = read(data, name)
        assert record.defect == "no column text; set `text_fields`"
        assert record.text.startswith("columns: body")


def test_an_unclosed_quote_does_not_hold_the_file() -> None:
    body = b"text\nfirst\n" + b'"never closed\n' + b"line\n" * 50_000 + b'end"\nlast\n'
    records = read(body, "x.csv", line_bytes=20_000)
    assert texts(records)[0] == "first"
    assert texts(records)[-1] == "last"
    assert any(defect.startswith("malformed CSV row") for defect in defects(records))


def test_html_nested_deeply_is_read_without_recursion() -> None:
    page = b"<html><body>" + b"<div>" * 200_000 + b"<p>deep text</p>" + b"</div>" * 200_000 + b"<p>after</p>"
    (record,) = read(page, "x.html")
    assert record.text.split() == ["deep", "text", "after"]


def test_json_nested_deeply_is_a_defect_or_a_text() -> None:
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    assert defects(read(deep + b"\n", "x.jsonl")) == ["malformed JSON line"]
    inside = b"[" * 900 + b'"found"' + b"]" * 900
    (record,) = read_stream(io.BytesIO(b'{"x":' + inside + b"}\n"), "x.jsonl", FieldChoice(text_fields=("*",)))
    assert record.text == "found"


def test_lines_that_only_together_are_json_stay_apart() -> None:
    assert defects(read(b'{"a": 1\n"text": "x"}\n', "x.jsonl")) == ["malformed JSON line"] * 2


def test_loops_of_links_are_entered_once(tmp_path: Path, download: Callable[..., Artifact]) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("only once")
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "sub" / "self").symlink_to(folder / "sub" / "self")
    (folder / "gone.txt").symlink_to(folder / "nowhere.txt")
    artifact = download([{"name": "mine", "uri": str(folder)}])
    assert list(iterate_texts(artifact)) == ["only once"]


def web_archive(pages: list[tuple[str, str, str, bytes]]) -> bytes:
    """WARC responses of (address, status line, content type, body)."""
    out = b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 0\r\n\r\n\r\n\r\n"
    for number, (address, status, kind, body) in enumerate(pages):
        http = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        head = (
            f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {address}\r\n"
            f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012d}>\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
        )
        out += head.encode() + http + b"\r\n\r\n"
    return out


PARAGRAPH = "<p>" + "A sentence of the main text that is long enough to be taken for content. " * 6 + "</p>"
PAGE = f"<html><body><nav>Home About</nav><article><h1>Title</h1>{PARAGRAPH}</article></body></html>".encode()
GOOD = ("https://example.org/good", "200 OK", "text/html", PAGE)


@pytest.mark.parametrize("name", ["x.warc", "x.warc.gz"])
def test_web_archives_give_main_text_and_count_the_rest(name: str) -> None:
    latin = PAGE.replace(b"sentence", "sentencé".encode("latin-1"))
    data = web_archive(
        [
            GOOD,
            ("https://example.org/gone", "404 Not Found", "text/html", PAGE),
            ("https://example.org/picture", "200 OK", "image/png", b"\x89PNG"),
            ("https://example.org/latin", "200 OK", "text/html; charset=iso-8859-1", latin),
            ("https://example.org/broken", "200 OK", "text/html", latin),
            ("https://example.org/deep", "200 OK", "text/html", b"<div>" * 50_000 + b"text"),
        ]
    )
    records = read(gzip.compress(data) if name.endswith("gz") else data, name)
    assert [record.origin for record in records if record.defect is None] == [
        "https://example.org/good",
        "https://example.org/latin",
    ]
    assert "sentencé" in texts(records)[1]
    assert "Home About" not in texts(records)[0]
    assert sorted(defects(records)) == ["HTTP status 4xx", "invalid UTF-8", "no main text", "response is not HTML"]


def test_a_cut_off_web_archive_gives_what_it_has() -> None:
    data = web_archive([GOOD] * 5)
    records = read(gzip.compress(data)[:-60], "x.warc.gz")
    assert defects(records)[-1] == "damaged gzip: it is cut off"
    assert defects(read(b"this is no archive\r\n" * 100, "x.warc")) == ["damaged WARC"]


def test_the_same_page_twice_is_one_document(tmp_path: Path, download: Callable[..., Artifact]) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(web_archive([GOOD, GOOD]))
    artifact = download([{"name": "mine", "uri": str(path)}])
    assert removed(artifact) == [("same text from the same place twice", 0.0)]
    assert len(list(iterate_texts(artifact))) == 1


@given(
    st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.text(max_size=5)), max_size=8),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
def test_ids_in_bulk_are_those_of_documents(rows: list[tuple[str, str]], source: str) -> None:
    rows = [(text, origin.encode("utf-8", "replace").decode()) for text, origin in rows]
    found = document_ids(
        source, pa.array([row[1] for row in rows], pa.string()), pa.array([row[0] for row in rows], pa.string())
    )
    assert found.to_pylist() == [Document(text, source, origin, "").id for text, origin in rows]


@given(
    st.binary(max_size=3000),
    st.sampled_from(
        ["x.jsonl", "x.csv", "x.tsv", "x.txt", "x.html", "x.parquet", "x.warc", "x.jsonl.gz", "x.jsonl.zst", "x.txt.xz"]
    ),
)
@settings(deadline=None, max_examples=300)
def test_no_bytes_at_all_make_a_reader_raise(data: bytes, name: str) -> None:
    for record in read(data, name, line_bytes=500, document_bytes=1000):
        record.text.encode()
        record.origin.encode()


ROWS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), max_size=40)


@given(ROWS, st.integers(1, 50))
def test_lines_come_back_in_any_blocks(rows: list[str], block_bytes: int) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, block_bytes))

    data = b"".join(orjson.dumps({"text": row}) + b"\n" for row in rows)
    records = list(read_stream(Slow(data), "x.jsonl", ANY))
    assert [(record.text, record.origin) for record in records] == [
        (row, f"x.jsonl:{number}") for number, row in enumerate(rows, start=1)
    ]


@given(ROWS)
def test_csv_rows_come_back(rows: list[str]) -> None:
    import csv

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([["text", "n"], *([row, "1"] for row in rows)])
    got = [record.text for record in read(text.getvalue().encode(), "x.csv")]
    assert got == rows
