"""The download stage: read every source into document shards, keep evaluation items out, set bad records aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infra.artifacts import Stage, StageContext, StageResult
from infra.errors import SourceError
from tasks.charts import stacked_bars
from tasks.documents import (
    DOCUMENTS,
    PLOTS,
    REMOVED,
    SCRATCH,
    Document,
    Removal,
    documents_table,
    removals_table,
    write_table,
)
from tasks.download.config import DownloadConfig, UnavailableSource
from tasks.download.decontamination import load_index, ngram_index, save_index, shared_ngrams
from tasks.download.records import Record
from tasks.download.sources import Source
from tasks.sharded_work import ProgressSpan, ShardWorkers, UnitOutput

CONTAMINATED = "shares a run of words with an evaluation item"
EMPTY = "empty"


@dataclass(frozen=True)
class SourceUnit:
    """One source to read: a picklable unit of work."""

    source: Source
    cache_directory: Path
    directory: Path
    shard_bytes: int
    index_path: Path
    ngram_words: int


def run(context: StageContext[DownloadConfig]) -> StageResult:
    """Read the sources in parallel; see `DownloadConfig` for the choices."""
    config = context.config
    index_path = context.directory / SCRATCH / "evaluation-ngrams.npy"
    context.report(0.0, "reading evaluation items to keep out", None)
    missing_sets = _write_index(config, index_path)
    units = {
        source.name: SourceUnit(
            source,
            config.cache_directory,
            context.directory,
            config.shard_bytes,
            index_path,
            config.decontamination.ngram_words,
        )
        for source in config.sources
    }
    with ShardWorkers(context, config.workers) as workers:
        figures = workers.run(ProgressSpan("sources", 0.05, 0.95), units, read_source)
    unavailable = [*config.unavailable, *missing_sets, *_unavailable(config, figures)]
    for source in unavailable:
        context.log.warning("%s Going on without it (it is optional).", source.reason)
    return _result(context, figures, unavailable)


def read_source(unit: SourceUnit) -> UnitOutput:
    """Read one source into its shards; what cannot become a document goes to `removed/` with its reason."""
    index = load_index(unit.index_path)
    files: list[Path] = []
    removed: Counter[str] = Counter()
    kept_documents = kept_bytes = 0
    try:
        for number, records in enumerate(_shards_of_records(unit)):
            documents, removals = _sort_out(unit, records, index)
            files += _write_shard(unit, number, documents, removals)
            removed.update(removal.reason for removal in removals)
            kept_documents += len(documents)
            kept_bytes += sum(len(document.text.encode()) for document in documents)
    except SourceError as error:
        # A pinned source was there a moment ago: leaving it out now would poison the fingerprint.
        if not unit.source.optional or unit.source.pinned:
            raise
        for path in files:
            path.unlink()
        return UnitOutput((), {"unavailable": error.problem})
    statistics = {"kept": kept_documents, "kept_bytes": kept_bytes, "removed": dict(sorted(removed.items()))}
    return UnitOutput(tuple(files), statistics)


def _write_index(config: DownloadConfig, index_path: Path) -> list[UnavailableSource]:
    texts: list[str] = []
    missing = []
    for evaluation_set in config.decontamination.evaluation_sets:
        try:
            texts += [record.text for record in evaluation_set.records(config.cache_directory)]
        except SourceError as error:
            if not evaluation_set.optional or evaluation_set.pinned:
                raise
            missing.append(UnavailableSource(name=evaluation_set.name, uri=evaluation_set.uri, reason=error.problem))
    save_index(index_path, ngram_index(texts, config.decontamination.ngram_words))
    return missing


def _shards_of_records(unit: SourceUnit) -> Iterator[list[Record]]:
    """The source's records up to its cap, in lists of about `shard_bytes` of text."""
    records: list[Record] = []
    size = total = 0
    for record in unit.source.records(unit.cache_directory):
        records.append(record)
        size += len(record.text.encode("utf-8", "replace"))
        cap_reached = _reaches(unit.source.maximum_bytes, total + size)
        if cap_reached or size >= unit.shard_bytes:
            yield records
            total, records, size = total + size, [], 0
            if cap_reached:
                return
    if records:
        yield records


def _reaches(maximum_bytes: int | None, total: int) -> bool:
    return maximum_bytes is not None and total >= maximum_bytes


def _sort_out(unit: SourceUnit, records: Iterable[Record], index: Any) -> tuple[list[Document], list[Removal]]:
    """Split records into documents and removals."""
    documents: list[Document] = []
    removals: list[Removal] = []
    for record in records:
        document = Document(_encodable(record.text), unit.source.name, record.origin, unit.source.licence)
        defect = record.defect or _defect_of(record.text)
        if defect is None:
            documents.append(document)
        else:
            removals.append(Removal(document, defect, 0.0))
    shared = shared_ngrams([document.text for document in documents], index, unit.ngram_words)
    for place in np.flatnonzero(shared):
        removals.append(Removal(documents[place], CONTAMINATED, float(shared[place])))
    return [document for document, runs in zip(documents, shared, strict=True) if not runs], removals


def _defect_of(text: str) -> str | None:
    if not text.strip():
        return EMPTY
    return None if _encodable(text) == text else "text with lone surrogates"


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _write_shard(unit: SourceUnit, number: int, documents: list[Document], removals: list[Removal]) -> Iterator[Path]:
    name = f"{unit.source.name}-{number:05d}.parquet"
    if documents:
        path = unit.directory / DOCUMENTS / name
        write_table(path, documents_table(documents))
        yield path
    if removals:
        path = unit.directory / REMOVED / name
        write_table(path, removals_table(removals))
        yield path


def _unavailable(config: DownloadConfig, figures: Mapping[str, dict[str, Any]]) -> list[UnavailableSource]:
    return [
        UnavailableSource(name=source.name, uri=source.uri, reason=figures[source.name]["unavailable"])
        for source in config.sources
        if "unavailable" in figures[source.name]
    ]


def _result(
    context: StageContext[DownloadConfig],
    figures: Mapping[str, dict[str, Any]],
    unavailable: list[UnavailableSource],
) -> StageResult:
    present = {name: figure for name, figure in figures.items() if "unavailable" not in figure}
    if not any(figure["kept"] for figure in present.values()):
        raise SourceError("no source yielded a document.", "check the sources' `uri`, `include` and `text_fields`.")
    bars = {name: {"kept": figure["kept_bytes"] / 1e6} for name, figure in present.items()}
    stacked_bars(context.directory / PLOTS / "documents_by_source.png", "Text by source", "megabytes", bars)
    contaminated = sum(figure["removed"].get(CONTAMINATED, 0) for figure in present.values())
    documents = sum(figure["kept"] for figure in present.values())
    kept_bytes = sum(figure["kept_bytes"] for figure in present.values())
    return StageResult(
        metrics={
            "download/documents": documents,
            "download/megabytes": kept_bytes / 1e6,
            "download/sources_unavailable": len(unavailable),
            "download/decontaminated_documents": contaminated,
        },
        tables={
            "sources": [
                _row(source, present[source.name]) for source in context.config.sources if source.name in present
            ],
            "unavailable sources": [
                {"Source": gone.name, "Address": gone.uri, "Reason": gone.reason} for gone in unavailable
            ],
        },
        statistics={
            "sources": present,
            "carried": {
                "decontaminated_documents": contaminated,
                "unavailable_sources": [gone.model_dump() for gone in unavailable],
            },
        },
    )


def _row(source: Source, figure: Mapping[str, Any]) -> dict[str, Any]:
    removed = figure["removed"]
    return {
        "Source": source.name,
        "Licence": source.licence,
        "Found": figure["kept"] + sum(removed.values()),
        "Kept": figure["kept"],
        "Megabytes": round(figure["kept_bytes"] / 1e6, 3),
        "Removed": ", ".join(f"{reason}: {count}" for reason, count in removed.items()) or "none",
    }


STAGE = Stage("download", "raw_documents", 1, DownloadConfig, run)
