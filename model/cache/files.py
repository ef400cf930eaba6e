"""A cache on disk: one safetensors file that says which model's shape it belongs to."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.errors import CacheError

_FORMAT = "sam2-cache-1"


@dataclass(frozen=True)
class SavedCache:
    """What a file holds."""

    model: dict[str, object]  # shape fields of the model that filled it
    lengths: list[int]
    snapshots: list[list[int]]  # lengths of each row's snapshots
    tensors: dict[str, Tensor]


def write(path: Path, saved: SavedCache) -> None:
    """Write durably, and under the final name only when complete."""
    # In one entry: the format keeps several in no certain order, and equal caches shall be equal files.
    description = {"model": saved.model, "lengths": saved.lengths, "snapshots": saved.snapshots}
    metadata = {_FORMAT: json.dumps(description, sort_keys=True)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Cloned where needed: rows selected twice share their snapshots, which the format does not allow.
        apart: dict[int, str] = {}
        tensors = {
            name: tensor.contiguous() if apart.setdefault(tensor.data_ptr(), name) == name else tensor.clone()
            for name, tensor in saved.tensors.items()
        }
        save_file(tensors, temporary, metadata=metadata)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, device: str) -> SavedCache:
    """Read what `write` wrote. Raises CacheError for any other file."""
    try:
        with safe_open(path, framework="pt", device=device) as file:
            metadata = file.metadata() or {}
            if _FORMAT not in metadata:
                raise ValueError(f"its header has no {_FORMAT}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        description = json.loads(metadata[_FORMAT])
        return SavedCache(description["model"], description["lengths"], description["snapshots"], tensors)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CacheError(f"{path} is not a saved cache ({error}): fill a new one from the prompt") from error
