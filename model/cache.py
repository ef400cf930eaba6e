"""What a model remembers of a sequence between calls: keys and values, recurrent states, convolution inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.errors import CacheError

LayerMemory = dict[str, Tensor]

# Attention layers keep room for more tokens than they hold; only these names have a time dimension (the third).
GROWING = ("keys", "values")
_FIRST_CAPACITY = 256


class Cache:
    """The memory of a batch of sequences of equal length, one dictionary of tensors a layer.

    A new cache is empty; `HybridLM.forward(..., cache=cache)` fills and advances it. `length` is the number of
    tokens seen.
    """

    def __init__(self, layer_count: int) -> None:
        self.layers: list[LayerMemory] = [{} for _ in range(layer_count)]
        self.length = 0

    def clone(self) -> Cache:
        """An independent copy: continuing one leaves the other unchanged."""
        copy = Cache(len(self.layers))
        copy.restore(self)
        return copy

    def restore(self, snapshot: Cache) -> None:
        """Return to the moment `snapshot` was cloned; the snapshot stays usable."""
        self.layers = [{name: tensor.clone() for name, tensor in layer.items()} for layer in snapshot.layers]
        self.length = snapshot.length

    def size_bytes(self) -> int:
        """Bytes that hold tokens seen so far (spare room for keys and values not counted)."""
        tensors = self._filled().values()
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add `[batch, heads, time, head_dim]` of new tokens to a layer; returns all keys and values so far."""
        memory = self.layers[layer]
        end = self.length + keys.shape[2]
        for name, new in zip(GROWING, (keys, values), strict=True):
            _make_room(memory, name, new, self.length, end)
            memory[name][:, :, self.length : end] = new
        return memory["keys"][:, :, :end], memory["values"][:, :, :end]

    def check_batch(self, batch: int) -> None:
        """Refuse a batch of another size than the one the cache was filled with."""
        for layer in self.layers:
            for tensor in layer.values():
                if tensor.shape[0] != batch:
                    held = tensor.shape[0]
                    raise CacheError(f"the cache holds {held} sequences, the call has {batch}: use a new Cache")

    def save(self, path: Path) -> None:
        """Write to one safetensors file, atomically."""
        temporary = path.with_name(path.name + ".partial")
        tensors = {name: tensor.contiguous() for name, tensor in self._filled().items()}
        metadata = {"length": str(self.length), "layers": str(len(self.layers))}
        save_file(tensors, temporary, metadata=metadata)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Self:
        """Read what `save` wrote."""
        try:
            with safe_open(path, framework="pt", device=device) as file:
                metadata = file.metadata() or {}
                cache = cls(int(metadata["layers"]))
                cache.length = int(metadata["length"])
                for full_name in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                    layer, name = full_name.split(".")
                    cache.layers[int(layer)][name] = file.get_tensor(full_name)
        except (OSError, SafetensorError, KeyError, ValueError, IndexError) as error:
            raise CacheError(f"{path} is not a saved cache ({error}): fill a new one from the prompt") from error
        return cache

    def _filled(self) -> dict[str, Tensor]:
        return {
            f"{index}.{name}": tensor[:, :, : self.length] if name in GROWING else tensor
            for index, layer in enumerate(self.layers)
            for name, tensor in layer.items()
        }


def _make_room(memory: LayerMemory, name: str, new: Tensor, length: int, end: int) -> None:
    """Double the buffer until `end` tokens fit, so that appending costs constant time a token."""
    held = memory.get(name)
    if held is not None and held.shape[2] >= end:
        return
    capacity = max(end, _FIRST_CAPACITY, 0 if held is None else 2 * held.shape[2])
    room = torch.empty(*new.shape[:2], capacity, new.shape[3], dtype=new.dtype, device=new.device)
    if held is not None:
        room[:, :, :length] = held[:, :, :length]
    memory[name] = room
