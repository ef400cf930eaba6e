"""Tensors in one safetensors file, or in several with an index, as transformers names and reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoint_files import INDEX_FILE, WEIGHTS_FILE
from model.errors import CheckpointError


def write_tensors(tensors: Iterable[tuple[str, Tensor]], directory: Path, shard_bytes: int) -> None:
    """Write tensors in order into files of at most `shard_bytes` (a larger tensor has a file of its own).

    No more than one file's tensors are held at a time.
    """
    shards: list[list[str]] = []
    held: dict[str, Tensor] = {}
    held_bytes = total_bytes = 0
    for name, tensor in tensors:
        if held and held_bytes + tensor.nbytes > shard_bytes:
            _write_shard(held, directory, shards)
            held, held_bytes = {}, 0
        held[name] = tensor
        held_bytes += tensor.nbytes
        total_bytes += tensor.nbytes
    _write_shard(held, directory, shards)
    if len(shards) == 1:
        _temporary_name(directory, 0).rename(directory / WEIGHTS_FILE)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = WEIGHTS_FILE.replace(".", f"-{number + 1:05d}-of-{len(shards):05d}.")
        _temporary_name(directory, number).rename(directory / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_shard(tensors: dict[str, Tensor], directory: Path, shards: list[list[str]]) -> None:
    save_file(tensors, _temporary_name(directory, len(shards)), metadata={"format": "pt"})
    shards.append(list(tensors))


def _temporary_name(directory: Path, number: int) -> Path:
    return directory / f"shard-{number}"


class StoredTensors:
    """The tensors of a model directory, read one at a time; a context manager that holds the files open."""

    def __init__(self, directory: Path, device: str) -> None:
        self.directory = directory
        self.path = directory / (INDEX_FILE if (directory / INDEX_FILE).is_file() else WEIGHTS_FILE)
        self._device = device
        self._open = ExitStack()
        self._files: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if self.path.name == INDEX_FILE:
            weight_map = self._read_index()
            files = {file: self._open_file(file) for file in sorted(set(weight_map.values()))}
            self._files = {name: files[file] for name, file in weight_map.items()}
            for name, file in weight_map.items():
                if name not in files[file].keys():  # noqa: SIM118 - safe_open is not a mapping
                    raise CheckpointError(f"{self.path} says that {file} holds {name}, and it does not: download again")
        else:
            file = self._open_file(WEIGHTS_FILE)
            self._files = dict.fromkeys(file.keys(), file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._files)

    def shape(self, name: str) -> torch.Size:
        """A tensor's shape, from the file's header."""
        return torch.Size(self._files[name].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """One tensor."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def _read_index(self) -> Mapping[str, str]:
        try:
            weight_map = json.loads(self.path.read_text(encoding="utf-8"))["weight_map"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.path} cannot be read ({error!r}): restore it") from error
        if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
            raise CheckpointError(f"{self.path}: weight_map must name a file for each tensor; restore it")
        for file in weight_map.values():
            if Path(file).name != file:
                raise CheckpointError(f"{self.path}: weight_map names {file!r}, which is not a file beside it")
        return weight_map

    def _open_file(self, file: str) -> Any:
        path = self.directory / file
        try:
            return self._open.enter_context(safe_open(path, framework="pt", device=self._device))
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is missing: save the model again, or name another directory") from error
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}): restore it or save the model again") from error
