"""WARC (ISO 28500): responses read by fastwarc, main text by trafilatura, the page's address as origin."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
from fastwarc.warc import ArchiveIterator, WarcRecordType  # type: ignore[import-untyped, unused-ignore]

from tasks.download.formats.markup import read_bounded
from tasks.download.formats.place import FilePlace
from tasks.download.formats.record import INVALID_UTF8, FieldChoice, ReadLimits, Record, batches_of, rejected

DAMAGED = "damaged WARC"
_HTML_TYPES = {"text/html", "application/xhtml+xml"}
_LONGEST_PAGE_BYTES = 8 << 20
_DECLARED_CHARSET = re.compile(rb"""charset\s*=\s*["']?\s*([A-Za-z0-9._:-]{2,40})""", re.IGNORECASE)


def read_web_archive(
    stream: BinaryIO, place: FilePlace, fields: FieldChoice, limits: ReadLimits
) -> Iterator[pa.RecordBatch]:
    """One record an HTML response with status 200; other responses are counted as defects without text."""
    yield from batches_of(_records(stream, place.origin, min(limits.document_bytes, _LONGEST_PAGE_BYTES)))


def _records(stream: BinaryIO, origin: str, page_bytes: int) -> Iterator[Record]:
    try:
        # The stream is unpacked already (with bounds on what it unpacks to), hence no detection.
        for record in ArchiveIterator(stream, WarcRecordType.response, parse_http=True, stream_detect=False):
            yield _response(record, origin, page_bytes)
    except (OSError, ValueError, EOFError) as error:
        yield rejected(str(error).encode("utf-8", "replace"), origin, DAMAGED)
    except BaseException as error:
        # fastwarc is written in Rust: what it did not foresee comes as a panic, which is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        yield rejected(str(error).encode("utf-8", "replace"), origin, DAMAGED)


def _response(record: Any, origin: str, page_bytes: int) -> Record:
    address = record.headers.get("WARC-Target-URI") or f"{origin}@{record.stream_pos}"
    status = record.http_headers.status_code if record.http_headers is not None else None
    if status != 200:
        return rejected(b"", address, f"HTTP status {status // 100 if status else 'missing or'}xx")
    if (record.http_content_type or "").lower() not in _HTML_TYPES:
        return rejected(b"", address, "response is not HTML")
    page = read_bounded(record.reader, page_bytes + 1)
    if len(page) > page_bytes:
        return rejected(page, address, "page over the size limit", page_bytes)
    return _page_record(page, record.http_charset, address)


def _page_record(page: bytes, charset: str | None, address: str) -> Record:
    try:
        source = _decode(page, charset)
    except UnicodeDecodeError as error:
        return rejected(page, address, INVALID_UTF8, error.start)
    try:
        text = main_text(source)
    except Exception:  # noqa: BLE001 - whatever a hostile page makes the extractor raise concerns this page only
        return rejected(page, address, "page cannot be parsed")
    return rejected(b"", address, "no main text") if text is None else Record(text, address)


def main_text(source: str) -> str | None:
    """The page's main text without navigation and comments (trafilatura, Barbaresi 2021), None without one."""
    from trafilatura import extract  # type: ignore[import-untyped, unused-ignore]

    text: str | None = extract(source, include_comments=False, deduplicate=False)
    return text


def _decode(page: bytes, charset: str | None) -> str:
    """By the charset of the HTTP header, else UTF-8, else the charset that the page declares."""
    declared = _DECLARED_CHARSET.search(page[:4096])
    names = [charset, "utf-8-sig", declared.group(1).decode("ascii") if declared else None]
    for name in names:
        if name is not None and _is_text_charset(name):
            try:
                return page.decode(name)
            except UnicodeDecodeError:
                continue
    return page.decode("utf-8")


def _is_text_charset(name: str) -> bool:
    try:
        return codecs.lookup(name)._is_text_encoding
    except LookupError:
        return False
