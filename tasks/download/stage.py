"""The download stage: read every source into document shards, keep evaluation items out, set bad records aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from infra.artifacts import Stage, StageContext, StageResult
from infra.errors import SourceError
from infra.storage.checksum import checksum_file
from infra.storage.local import atomic_file
from tasks.charts import load_in_background, stacked_bars
from tasks.documents import DOCUMENTS, PLOTS, REMOVED, SCRATCH, write_table
from tasks.download.config import DownloadConfig, UnavailableSource
from tasks.download.decontamination import EvaluationIndex
from tasks.download.progress import ReadingProgress, UnitCounter, transfers_observed
from tasks.download.shards import CONTAMINATED, SortedShard, cut_shards, sort_out
from tasks.download.sources import Source
from tasks.download.sources.source import SourcePart
from tasks.sharded_work import ProgressSpan, ShardWorkers, UnitOutput

#: A part of a source has about so many shards: what a kill loses at most of a part is one shard.
_SHARDS_PER_PART = 8
_SPAN = ProgressSpan("sources", 0.05, 0.95)


@dataclass(frozen=True)
class PartUnit:
    """One part of a source to read: a picklable unit of work. `name` begins the names of its shards."""

    name: str
    source: Source
    part: SourcePart
    is_only_part: bool
    cache_directory: Path
    directory: Path
    shard_bytes: int
    index_path: Path

    def shard_name(self, number: int) -> str:
        """`source-00000`, or `source-00003_00000` for shards of one part of several."""
        return f"{self.name}-{number:05d}" if self.is_only_part else f"{self.name}_{number:05d}"


def run(context: StageContext[DownloadConfig]) -> StageResult:
    """Read the sources in parallel; see `DownloadConfig` for the choices."""
    config = context.config
    index_path = context.directory / SCRATCH / "evaluation-runs.npz"
    load_in_background()
    context.report(0.0, "reading evaluation items to keep out", None)
    missing_sets = _write_index(config, index_path)
    units, gone = _units(context, index_path)
    sizes = {name: unit.part.size_bytes or unit.source.maximum_bytes or 0 for name, unit in units.items()}
    progress = ReadingProgress(context.report, _counters(context.directory), sizes, (_SPAN.start, _SPAN.end))
    with progress.in_this_process(), ShardWorkers(replace(context, report=progress.report), config.workers) as workers:
        outcomes = workers.run(_SPAN, units, read_part)
    figures, unreadable = _by_source(config, units, outcomes)
    unavailable = [*config.unavailable, *missing_sets, *gone, *unreadable]
    for source in unavailable:
        context.log.warning("%s Going on without it (it is optional).", source.reason)
    _warn_of_empty_sources(context, figures)
    return _result(context, figures, unavailable)


def read_part(unit: PartUnit) -> UnitOutput:
    """Read one part of a source into its shards; what cannot become a document goes to `removed/` with its reason.

    Shards that an attempt before this one finished are read again but not made again.
    """
    counter = UnitCounter(_counters(unit.directory), unit.name)
    files: list[Path] = []
    statistics: list[Mapping[str, Any]] = []
    try:
        with transfers_observed(counter.fetched):
            batches = _counted(unit.source.batches(unit.cache_directory, unit.part), counter)
            index = EvaluationIndex.load(unit.index_path)
            for number, records in enumerate(cut_shards(batches, unit.shard_bytes, unit.source.maximum_bytes)):
                shard_files, figures = _finished_shard(unit, number) or _make_shard(unit, number, records, index)
                files += shard_files
                statistics.append(figures)
    except SourceError as error:
        # A pinned source was there a moment ago: leaving it out now would poison the fingerprint.
        if not unit.source.optional or unit.source.pinned:
            raise
        for path in files:
            path.unlink(missing_ok=True)
        return UnitOutput((), {"unavailable": error.problem})
    return UnitOutput(tuple(files), _sum(statistics))


def _units(
    context: StageContext[DownloadConfig], index_path: Path
) -> tuple[dict[str, PartUnit], list[UnavailableSource]]:
    """Every source cut into parts, by unit name, and optional sources that cannot be had any more."""
    config = context.config
    units: dict[str, PartUnit] = {}
    gone: list[UnavailableSource] = []
    for place, source in enumerate(config.sources):
        message = f"planning source {place + 1} of {len(config.sources)}: {source.name}"
        context.report(_SPAN.start * place / len(config.sources), message, None)
        try:
            parts = source.parts(config.cache_directory, _SHARDS_PER_PART * config.shard_bytes)
        except SourceError as error:
            if not source.optional or source.pinned:
                raise
            gone.append(_unavailable(source, error.problem))
            continue
        for number, part in enumerate(parts):
            name = source.name if len(parts) == 1 else f"{source.name}-{number:05d}"
            units[name] = PartUnit(
                name,
                source,
                part,
                len(parts) == 1,
                config.cache_directory,
                context.directory,
                config.shard_bytes,
                index_path,
            )
    return units, gone


def _write_index(config: DownloadConfig, index_path: Path) -> list[UnavailableSource]:
    sets: dict[str, list[str]] = {}
    missing = []
    for evaluation_set in config.decontamination.evaluation_sets:
        try:
            texts = [record.text for record in evaluation_set.records(config.cache_directory)]
            sets.setdefault(evaluation_set.name, []).extend(texts)
        except SourceError as error:
            if not evaluation_set.optional or evaluation_set.pinned:
                raise
            missing.append(_unavailable(evaluation_set, error.problem))
    EvaluationIndex.of(sets, config.decontamination.ngram_words).save(index_path)
    return missing


def _counters(directory: Path) -> Path:
    return directory / SCRATCH / "progress"


def _counted(batches: Iterator[pa.RecordBatch], counter: UnitCounter) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch
        counter.read(batch.column("text").nbytes)


def _make_shard(
    unit: PartUnit, number: int, records: pa.Table, index: EvaluationIndex
) -> tuple[list[Path], Mapping[str, Any]]:
    shard = sort_out(records, unit.source.name, unit.source.licence, index)
    files = list(_write_shard(unit, number, shard))
    entries = [[path.relative_to(unit.directory).as_posix(), checksum_file(path)] for path in files]
    with atomic_file(_shard_note(unit, number)) as stream:
        stream.write(orjson.dumps({"files": entries, "statistics": shard.statistics}))
    return files, shard.statistics


def _write_shard(unit: PartUnit, number: int, shard: SortedShard) -> Iterator[Path]:
    for folder, table in ((DOCUMENTS, shard.documents), (REMOVED, shard.removed)):
        if table.num_rows:
            path = unit.directory / folder / f"{unit.shard_name(number)}.parquet"
            write_table(path, table)
            yield path


def _finished_shard(unit: PartUnit, number: int) -> tuple[list[Path], Mapping[str, Any]] | None:
    """Files and figures of a shard that a killed attempt had finished, when they are intact."""
    try:
        note = orjson.loads(_shard_note(unit, number).read_bytes())
        files = [unit.directory / name for name, _ in note["files"]]
        intact = all(checksum_file(unit.directory / name) == checksum for name, checksum in note["files"])
    except (OSError, orjson.JSONDecodeError):
        return None
    return (files, note["statistics"]) if intact else None


def _shard_note(unit: PartUnit, number: int) -> Path:
    return unit.directory / SCRATCH / "finished" / f"{unit.shard_name(number)}.json"


def _sum(statistics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of shards or parts added up."""
    removed: Counter[str] = Counter()
    by_set: Counter[str] = Counter()
    for figures in statistics:
        removed.update(figures["removed"])
        by_set.update(figures["contaminated_by_set"])
    return {
        "kept": sum(figures["kept"] for figures in statistics),
        "kept_bytes": sum(figures["kept_bytes"] for figures in statistics),
        "removed": dict(sorted(removed.items())),
        "contaminated_by_set": dict(sorted(by_set.items())),
    }


def _by_source(
    config: DownloadConfig, units: Mapping[str, PartUnit], outcomes: Mapping[str, dict[str, Any]]
) -> tuple[dict[str, dict[str, Any]], list[UnavailableSource]]:
    """The parts' figures added up by source; a source with an unreadable part is left out as a whole."""
    figures: dict[str, dict[str, Any]] = {}
    unreadable = []
    for source in config.sources:
        parts = {name: outcomes[name] for name, unit in units.items() if unit.source.name == source.name}
        reasons = [outcome["unavailable"] for outcome in parts.values() if "unavailable" in outcome]
        if reasons:
            unreadable.append(_unavailable(source, reasons[0]))
            for name in parts:
                _remove_shards(units[name])
        elif parts:
            figures[source.name] = _sum(list(parts.values()))
    return figures, unreadable


def _remove_shards(unit: PartUnit) -> None:
    stem = unit.shard_name(0)[: -len("00000")]
    for folder in (DOCUMENTS, REMOVED):
        for path in (unit.directory / folder).glob(f"{stem}?????.parquet"):
            path.unlink()


def _unavailable(source: Source, reason: str) -> UnavailableSource:
    return UnavailableSource(name=source.name, uri=source.uri, reason=reason)


def _warn_of_empty_sources(context: StageContext[DownloadConfig], figures: Mapping[str, Mapping[str, Any]]) -> None:
    for name, figure in figures.items():
        if not figure["kept"]:
            reasons = ", ".join(f"{count} {reason}" for reason, count in figure["removed"].items()) or "no records"
            context.log.warning("source '%s' gave no document (%s).", name, reasons)


def _result(
    context: StageContext[DownloadConfig],
    figures: Mapping[str, dict[str, Any]],
    unavailable: list[UnavailableSource],
) -> StageResult:
    present = dict(figures)
    if not any(figure["kept"] for figure in present.values()):
        found = [
            f"{name}: {reason} ({count})"
            for name, figure in present.items()
            for reason, count in figure["removed"].items()
        ]
        raise SourceError(
            f"no source yielded a document{'; found ' + ', '.join(found) if found else ''}.",
            "check the sources' `uri`, `include` and `text_fields`.",
        )
    bars = {name: {"kept": figure["kept_bytes"] / 1e6} for name, figure in present.items()}
    stacked_bars(context.directory / PLOTS / "documents_by_source.png", "Text by source", "megabytes", bars)
    contaminated = sum(figure["removed"].get(CONTAMINATED, 0) for figure in present.values())
    by_set: Counter[str] = Counter()
    for figure in present.values():
        by_set.update(figure["contaminated_by_set"])
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
            "evaluation items found": [
                {"Evaluation set": name, "Documents removed": count} for name, count in sorted(by_set.items())
            ],
            "unavailable sources": [
                {"Source": gone.name, "Address": gone.uri, "Reason": gone.reason} for gone in unavailable
            ],
        },
        statistics={
            "sources": present,
            "carried": {
                "decontaminated_documents": contaminated,
                "decontaminated_by_set": dict(sorted(by_set.items())),
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


STAGE = Stage("download", "raw_documents", 2, DownloadConfig, run)
