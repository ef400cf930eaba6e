"""What a checkpoint says about itself: `checkpoint.json`, and the note that each rank leaves beside its part."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import ArtifactCorrupted
from infra.storage.checksum import checksum_bytes

DESCRIPTION_FILE = "checkpoint.json"
_CHECKSUM = "checksum"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(_Record):
    """Checksum and size of one file."""

    checksum: str
    size_bytes: int


class Slice(_Record):
    """Where the values `start` to `stop` of a flat tensor are; `key_of` names them in the file."""

    file: str
    start: int
    stop: int


class TensorRecord(_Record):
    """A whole tensor's shape and its slices, in order."""

    shape: tuple[int, ...]
    slices: tuple[Slice, ...]


class _SelfChecked(_Record):
    """JSON that carries the checksum of its own content."""

    def encode(self) -> bytes:
        """The file's content."""
        content = json.loads(json.dumps(self.model_dump(mode="python")))  # keys and tuples as JSON has them
        content[_CHECKSUM] = checksum_bytes(_canonical(content))
        return json.dumps(content, indent=1).encode()

    @classmethod
    def decode(cls, data: bytes, name: str) -> Self:
        """The record back; raises ArtifactCorrupted naming `name` for anything but what `encode` wrote."""
        try:
            content = json.loads(data)
            checksum = content.pop(_CHECKSUM)
            if checksum != checksum_bytes(_canonical(content)):
                raise ValueError("it does not match its checksum")
            return cls.model_validate(content)
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError, RecursionError) as error:
            reason = "its checksum is missing" if isinstance(error, KeyError) else str(error).splitlines()[0]
            raise ArtifactCorrupted(f"'{name}' cannot be read ({reason}).", "take another checkpoint.") from error


class PartNote(_SelfChecked):
    """What one rank wrote: its files, the slices in them, and the append-only series (name -> file)."""

    files: dict[str, FileRecord]
    tensors: dict[str, TensorRecord]
    series: dict[str, str] = {}


class Description(_SelfChecked):
    """A complete checkpoint.

    sequence: grows with every checkpoint of a run, through restarts and roll-backs; the largest is the newest.
    files: every file of the checkpoint but this one. series: name -> file of one JSON object a line.
    progress: whatever the trainer has to know to go on.
    """

    format: Literal[1] = 1
    step: int
    sequence: int
    ranks: int
    files: dict[str, FileRecord]
    tensors: dict[str, TensorRecord]
    series: dict[str, str]
    progress: dict[str, Any]

    @classmethod
    def assemble(
        cls, notes: Iterable[PartNote], *, step: int, sequence: int, ranks: int, progress: Mapping[str, Any]
    ) -> Description:
        """The checkpoint made of these parts. Raises ValueError when they leave a gap or overlap."""
        files: dict[str, FileRecord] = {}
        series: dict[str, str] = {}
        for note in (notes := list(notes)):
            files |= note.files
            series |= note.series
        return cls(
            step=step,
            sequence=sequence,
            ranks=ranks,
            files=files,
            tensors=merge(note.tensors for note in notes),
            series=series,
            progress=dict(progress),
        )


def merge(parts: Iterable[Mapping[str, TensorRecord]]) -> dict[str, TensorRecord]:
    """Whole tensors from the slices of several parts. Raises ValueError when they leave a gap or overlap."""
    slices: dict[str, list[Slice]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for part in parts:
        for name, record in part.items():
            if shapes.setdefault(name, record.shape) != record.shape:
                raise ValueError(f"tensor '{name}' has the shapes {shapes[name]} and {record.shape}")
            slices.setdefault(name, []).extend(record.slices)
    for name, pieces in slices.items():
        pieces.sort(key=lambda piece: piece.start)
        ends = [0, *(piece.stop for piece in pieces)]
        if [piece.start for piece in pieces] != ends[:-1] or ends[-1] != math.prod(shapes[name]):
            raise ValueError(f"the slices of tensor '{name}' do not make it whole: {pieces}")
    return {name: TensorRecord(shape=shapes[name], slices=tuple(slices[name])) for name in sorted(slices)}


def key_of(tensor: str, start: int) -> str:
    """Name of a slice in its safetensors file."""
    return f"{tensor}@{start}"


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
