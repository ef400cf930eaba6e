"""One attempt to write a checkpoint: a thread of each rank writes its part, one of the first rank publishes.

No collective runs in these threads. The first rank learns from the notes beside the parts when all are there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.errors import PipelineError
from infra.storage.checksum import checksum_file
from infra.storage.local import atomic_file
from tasks.training.checkpoints.description import (
    Description,
    FileRecord,
    PartNote,
    Slice,
    TensorRecord,
    key_of,
)
from tasks.training.checkpoints.errors import CheckpointFailed, explain
from tasks.training.checkpoints.fragments import Fragment, is_weight
from tasks.training.checkpoints.place import CheckpointPlace, part_name, step_directory
from tasks.training.checkpoints.reading import encode_series
from tasks.training.checkpoints.safetensors_stream import write_safetensors

_FIRST_POLL_SECONDS = 0.01
_LONGEST_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Content:
    """What one rank contributes to a checkpoint: copies of its fragments; progress and series count from rank 0."""

    step: int
    sequence: int
    fragments: Sequence[Fragment]
    progress: Mapping[str, Any]
    series: Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass
class Attempt:
    """The writing of one checkpoint by one rank, in the background.

    name: the same on all ranks, another for every attempt. local: None where the ranks do not share a directory;
    then the parts only pass through it. published: called in the background with each place it is complete in.
    """

    content: Content
    name: str
    rank: int
    ranks: int
    directory: Path
    local: CheckpointPlace | None
    remote: CheckpointPlace | None
    wait_for_copies: Callable[[], None]
    published: Callable[[CheckpointPlace], None]
    warn: Callable[[str], None]
    error: PipelineError | None = None
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin, and return at once."""
        work = [self._write] if self.rank else [self._write, self._publish]
        # Daemons: a trainer that dies does not wait for them, and what they leave is no checkpoint.
        self._threads = [threading.Thread(target=self._guarded, args=(part,), daemon=True) for part in work]
        for thread in self._threads:
            thread.start()

    @property
    def is_writing(self) -> bool:
        """Whether this rank's part is being written or uploaded."""
        return self._threads[0].is_alive()

    @property
    def is_publishing(self) -> bool:
        """Whether the first rank waits for the others' parts, or publishes."""
        return any(thread.is_alive() for thread in self._threads[1:])

    def join_writer(self) -> None:
        """Return when this rank's part is written and uploaded, or has failed."""
        self._threads[0].join()

    def join_publisher(self) -> None:
        """Return when the checkpoint is published, or has failed or been cancelled."""
        for thread in self._threads[1:]:
            thread.join()

    def cancel(self) -> None:
        """Have the first rank stop waiting for parts that will not come."""
        self._cancelled.set()

    def discard(self) -> None:
        """Give back the space of an attempt that failed on some rank, unless it is complete on this disk."""
        published: set[str] = set()
        if self.local is not None:
            with suppress(FileNotFoundError, PipelineError):
                published = set(self.local.read(self.content.step).files)
        for path in self._directory.glob(f"*-{self.rank:05d}-of-{self.ranks:05d}-{self.name}.*"):
            if path.name not in published:
                path.unlink(missing_ok=True)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 # told at once, and raised by whoever waits
            self.error = explain(error, str(self._directory))
            self.warn(f"the checkpoint of update {self.content.step} failed: {self.error.problem}")

    @property
    def _directory(self) -> Path:
        return self.directory / step_directory(self.content.step)

    def _write(self) -> None:
        self.wait_for_copies()
        self._directory.mkdir(parents=True, exist_ok=True)
        written: list[Path] = []
        try:
            note = self._write_files(written)
            if self.local is not None:
                self.local.write_note(self.content.step, self._note_name(self.rank), note)
        except BaseException:
            for path in written:
                path.unlink(missing_ok=True)
            raise
        if self.remote is not None:
            for path in written:
                self.remote.storage.upload(path, f"{self._directory.name}/{path.name}")
            self.remote.write_note(self.content.step, self._note_name(self.rank), note)
            if self.local is None:
                for path in written:
                    path.unlink()

    def _write_files(self, written: list[Path]) -> PartNote:
        files: dict[str, FileRecord] = {}
        tensors: dict[str, TensorRecord] = {}
        weights = [fragment for fragment in self.content.fragments if is_weight(fragment.tensor)]
        moments = [fragment for fragment in self.content.fragments if not is_weight(fragment.tensor)]
        for kind, fragments in (("weights", weights), ("optimizer", moments)):
            if fragments:
                path = self._directory / part_name(kind, self.rank, self.ranks, self.name)
                files[path.name] = _write_fragments(path, fragments)
                written.append(path)
                tensors |= _records(fragments, path.name)
        series: dict[str, str] = {}
        for name, records in self.content.series.items() if self.rank == 0 else ():
            path = self._directory / f"{name}-{self.name}.jsonl"
            with atomic_file(path) as stream:
                stream.write(encode_series(records))
            files[path.name] = FileRecord(checksum=checksum_file(path), size_bytes=path.stat().st_size)
            written.append(path)
            series[name] = path.name
        return PartNote(files=files, tensors=tensors, series=series)

    def _publish(self) -> None:
        for place in filter(None, (self.local, self.remote)):
            notes = self._all_notes(place)
            if notes is None:
                return
            content = self.content
            place.publish(
                Description.assemble(
                    notes, step=content.step, sequence=content.sequence, ranks=self.ranks, progress=content.progress
                )
            )
            self.published(place)

    def _all_notes(self, place: CheckpointPlace) -> list[PartNote] | None:
        """Every rank's note once all are there; None when cancelled before."""
        notes: dict[int, PartNote] = {}
        pause = _FIRST_POLL_SECONDS
        while True:
            cancelled = self._cancelled.is_set()  # looked at first: what is there by then counts
            for rank in range(self.ranks):
                if rank not in notes and (note := place.read_note(self.content.step, self._note_name(rank))):
                    notes[rank] = note
            if len(notes) == self.ranks:
                return list(notes.values())
            if cancelled:
                return None
            self._cancelled.wait(pause)
            pause = min(2 * pause, _LONGEST_POLL_SECONDS)

    def _note_name(self, rank: int) -> str:
        return part_name("part", rank, self.ranks, self.name, ".json")


def _write_fragments(path: Path, fragments: Sequence[Fragment]) -> FileRecord:
    """Write and read back, so that a checkpoint whose description appears is one that can be read."""
    shapes = {key_of(fragment.tensor, fragment.start): (fragment.values.numel(),) for fragment in fragments}
    checksum, size = write_safetensors(path, shapes, (fragment.values for fragment in fragments))
    if checksum_file(path) != checksum:
        path.unlink()
        raise CheckpointFailed(
            f"'{path}' reads back otherwise than it was written.", "use another disk: this one loses data."
        )
    return FileRecord(checksum=checksum, size_bytes=size)


def _records(fragments: Sequence[Fragment], file: str) -> dict[str, TensorRecord]:
    slices: dict[str, list[Slice]] = {}
    for fragment in fragments:
        piece = Slice(file=file, start=fragment.start, stop=fragment.stop)
        slices.setdefault(fragment.tensor, []).append(piece)
    shapes = {fragment.tensor: fragment.shape for fragment in fragments}
    return {name: TensorRecord(shape=shapes[name], slices=tuple(pieces)) for name, pieces in slices.items()}
