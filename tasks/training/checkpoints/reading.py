"""Tensors read by slices: each rank takes what it needs, wherever the ranks that wrote it had cut."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from infra.errors import ArtifactCorrupted
from tasks.training.checkpoints.description import Description, TensorRecord, key_of
from tasks.training.checkpoints.fragments import WEIGHTS


class TensorSource(Protocol):
    """Named tensors that can be read in part."""

    def __contains__(self, tensor: str) -> bool:
        """Whether there is a tensor of this name."""

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Its whole shape."""

    def read(self, tensor: str, start: int, stop: int) -> Tensor:
        """`[stop - start]` fp32: these values of the flat tensor. Raises ArtifactCorrupted."""


class _OpenFiles:
    """safetensors files opened on first use; they are mapped, so only what is asked for is read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: dict[str, Any] = {}

    def slice(self, file: str, key: str) -> Any:
        path = self._directory / file
        try:
            if file not in self._open:
                self._open[file] = safe_open(path, framework="pt")
            return self._open[file].get_slice(key)
        except (OSError, SafetensorError) as error:
            raise ArtifactCorrupted(
                f"tensor '{key}' cannot be read from '{path}' ({error}).",
                "remove that directory and run again, or train the stage it belongs to again.",
            ) from error


class SlicedTensors:
    """Tensors in slices over the files of a directory, as a checkpoint's description lists them."""

    def __init__(self, directory: Path, tensors: Mapping[str, TensorRecord]) -> None:
        self.tensors = tensors
        self._files = _OpenFiles(directory)

    def __contains__(self, tensor: str) -> bool:
        return tensor in self.tensors

    def shape(self, tensor: str) -> tuple[int, ...]:
        return self.tensors[tensor].shape

    def read(self, tensor: str, start: int, stop: int) -> Tensor:
        values = torch.empty(stop - start, dtype=torch.float32)
        for piece in self.tensors[tensor].slices:
            first, last = max(start, piece.start), min(stop, piece.stop)
            if first < last:
                stored = self._files.slice(piece.file, key_of(tensor, piece.start))
                values[first - start : last - start] = stored[first - piece.start : last - piece.start]
        return values


class WholeTensors:
    """The weights in a safetensors file of whole tensors, a saved model's, under a checkpoint's names."""

    def __init__(self, path: Path) -> None:
        self._files = _OpenFiles(path.parent)
        self._file = path.name
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                self._shapes = {f"{WEIGHTS}.{name}": tuple(file.get_slice(name).get_shape()) for name in names}
        except (OSError, SafetensorError) as error:
            raise ArtifactCorrupted(
                f"the weights '{path}' cannot be read ({error}).", "train the previous stage again."
            ) from error

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._shapes

    def shape(self, tensor: str) -> tuple[int, ...]:
        return self._shapes[tensor]

    def read(self, tensor: str, start: int, stop: int) -> Tensor:
        stored = self._files.slice(self._file, tensor.removeprefix(f"{WEIGHTS}."))
        width = torch.Size(self._shapes[tensor][1:]).numel()  # slices can only be taken along the first dimension
        first, last = start // width, -(-stop // width)
        block: Tensor = stored[first:last].float().flatten()
        return block[start - first * width : stop - first * width]


def whole(source: TensorSource, tensor: str) -> Tensor:
    """A whole tensor in its shape."""
    shape = source.shape(tensor)
    return source.read(tensor, 0, torch.Size(shape).numel()).reshape(shape)


class Checkpoint(SlicedTensors):
    """An intact checkpoint on this machine's disk.

    step: updates made. progress: what the trainer saved with it.
    """

    def __init__(self, directory: Path, description: Description) -> None:
        super().__init__(directory, description.tensors)
        self.directory = directory
        self.description = description
        self.step = description.step
        self.progress = description.progress

    def series(self, name: str) -> list[dict[str, Any]]:
        """The records of one of the series saved with it; empty when there is none of that name."""
        if name not in self.description.series:
            return []
        lines = (self.directory / self.description.series[name]).read_text().splitlines()
        return [json.loads(line) for line in lines]


def encode_series(records: Iterable[Mapping[str, Any]]) -> bytes:
    """One JSON object a line. Line by line, so that a long history does not hold Python's lock."""
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)
