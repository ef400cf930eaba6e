"""One memory for a batch of sequences, which may differ in length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from model.cache.files import SavedCache, read, write
from model.cache.snapshots import DEFAULT_SNAPSHOTS, Snapshot, SnapshotPolicy, with_snapshot
from model.config import ModelConfig
from model.errors import CacheError

LayerMemory = dict[str, Tensor]

# Attention layers keep room for more tokens than they hold; only these names have a time dimension (the third).
GROWING = ("keys", "values")
# Recurrent states stay in float32 whatever the rest is converted to: their errors add up over the sequence.
_EXACT = "state"
_FIRST_CAPACITY = 256


@dataclass(frozen=True)
class CacheSizes:
    """Bytes of a cache, by purpose."""

    keys_and_values: int  # of tokens seen
    states: int  # recurrent states and convolution inputs
    snapshots: int  # copies of states to return to
    spare: int  # room for keys and values to come, and of shorter rows beside longer ones

    @property
    def total(self) -> int:
        """All bytes."""
        return self.keys_and_values + self.states + self.snapshots + self.spare


class Cache:
    """The memory of a batch of sequences: one dictionary of tensors a layer, batch first.

    A new cache is empty; `HybridLM.forward(..., cache=cache)` fills and advances it. Row r has seen `lengths[r]`
    tokens, which `tokens(r)` gives back; its keys and values lie at times 0 … lengths[r] - 1. Every other tensor is
    zero before the first token, which mixers rely on. `snapshots[r]` are the row's earlier states, by length.
    """

    def __init__(self, config: ModelConfig, snapshots: SnapshotPolicy = DEFAULT_SNAPSHOTS) -> None:
        self.config = config
        self.policy = snapshots
        self.layers: list[LayerMemory] = [{} for _ in range(config.layer_count)]
        self.lengths: list[int] = []
        self.snapshots: list[list[Snapshot]] = []
        self._seen: Tensor | None = None  # [batch, capacity], the token ids
        self._ends: tuple[Tensor, Tensor] | None = None  # row numbers and lengths on the device, until these change

    @property
    def batch(self) -> int:
        """Sequences held; 0 before the first use."""
        return len(self.lengths)

    @property
    def length(self) -> int:
        """Tokens seen by the longest sequence."""
        return max(self.lengths, default=0)

    @property
    def is_even(self) -> bool:
        """Whether all sequences have the same length."""
        return len(set(self.lengths)) <= 1

    def tokens(self, row: int) -> list[int]:
        """The token ids that a row has seen."""
        if self._seen is None:
            return []
        seen: list[int] = self._seen[row, : self.lengths[row]].tolist()
        return seen

    def common_prefix(self, row: int, tokens: Sequence[int]) -> int:
        """How many of the first `tokens` are the ones the row has seen."""
        if self._seen is None:
            return 0
        shared = min(len(tokens), self.lengths[row])
        given = torch.as_tensor(tokens[:shared], dtype=self._seen.dtype, device=self._seen.device)
        differing = (self._seen[row, :shared] != given).nonzero()
        return int(differing[0]) if len(differing) else shared

    # What a forward pass does

    def bind(self, config: ModelConfig, batch: int) -> None:
        """Prepare for a call of `batch` sequences; refuse a batch or a model other than the cache was filled by."""
        if config is not self.config and (problem := shape_difference(self.config, config)):
            raise CacheError(f"the cache was made for another model ({problem}): use a new Cache")
        if not self.lengths:
            self.lengths, self.snapshots = [0] * batch, [[] for _ in range(batch)]
        if self.batch != batch:
            raise CacheError(
                f"the cache holds {self.batch} sequences, the call has {batch}: use a new Cache, or select its rows"
            )

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add `[batch, heads, time, head_dim]` of new tokens to a layer; returns all keys and values so far.

        Those are in the given dtype, and padded with anything up to the longest row: see `lengths`.
        """
        memory = self.layers[layer]
        time = keys.shape[2]
        end = self.length + time
        for name, new in zip(GROWING, (keys, values), strict=True):
            memory[name] = _with_room(memory.get(name), new, 2, self.length, end)
            self._write(memory[name].transpose(1, 2), new.transpose(1, 2))
        return memory["keys"][:, :, :end].to(keys.dtype), memory["values"][:, :, :end].to(values.dtype)

    def advance(self, tokens: Tensor) -> None:
        """End a call: `tokens` `[batch, time]` have been seen. Copies states when the policy asks for it."""
        time = tokens.shape[1]
        new = tokens.to(torch.int32)
        self._seen = _with_room(self._seen, new, 1, self.length, self.length + time)
        self._write(self._seen, new)
        before, self.lengths, self._ends = self.lengths, [length + time for length in self.lengths], None
        self.snapshot(row for row, start in enumerate(before) if self.policy.due(start, start + time))

    def _write(self, buffer: Tensor, new: Tensor) -> None:
        """Put `new` `[batch, time, ...]` behind each row's tokens in `buffer` `[batch, capacity, ...]`."""
        time = new.shape[1]
        if self.is_even:
            buffer[:, self.length : self.length + time] = new
        elif time == 1:
            if self._ends is None:
                lengths = torch.tensor(self.lengths, device=buffer.device)
                self._ends = torch.arange(self.batch, device=buffer.device), lengths
            buffer[self._ends] = new[:, 0].to(buffer.dtype)
        else:
            for row, start in enumerate(self.lengths):
                buffer[row, start : start + time] = new[row]

    # Going back

    def snapshot(self, rows: Iterable[int] | None = None) -> None:
        """Copy the states of `rows` (all by default), to return to them; the policy's limit holds."""
        states = self._states()
        if self.policy.limit == 0 or not any(states):
            return
        for row in range(self.batch) if rows is None else rows:
            copies = ({name: tensor[row : row + 1].clone() for name, tensor in layer.items()} for layer in states)
            new = Snapshot(self.lengths[row], tuple(copies))
            self.snapshots[row] = with_snapshot(self.snapshots[row], new, self.policy.limit)

    def trim(self, lengths: int | Sequence[int]) -> list[int]:
        """Go back to at most `lengths` tokens a row, exactly; returns how many tokens of each row must be read again.

        Keys and values can be cut anywhere. States are those of the last snapshot (or of the empty start) that is
        no longer than asked for, so the row goes back to there: afterwards it has `lengths - returned` tokens.
        `generation.rewind` reads the rest again.
        """
        wanted = [lengths] * self.batch if isinstance(lengths, int) else list(lengths)
        if len(wanted) != self.batch:
            raise CacheError(f"{len(wanted)} lengths for {self.batch} sequences: give one each, or one for all")
        for row, (length, held) in enumerate(zip(wanted, self.lengths, strict=True)):
            if not 0 <= length <= held:
                raise CacheError(f"row {row} has seen {held} tokens and cannot be cut to {length}")
        cut = [row for row, length in enumerate(wanted) if length < self.lengths[row]]
        reached = list(wanted)
        if any(self._states()):
            self._return_states(cut, wanted, reached)
        self.lengths, self._ends = reached, None
        return [length - back for length, back in zip(wanted, reached, strict=True)]

    def _return_states(self, rows: Sequence[int], wanted: Sequence[int], reached: list[int]) -> None:
        """Bring the states of `rows` to the last snapshot within `wanted`, and note its length in `reached`."""
        for row in rows:
            self.snapshots[row] = [snapshot for snapshot in self.snapshots[row] if snapshot.length <= wanted[row]]
            reached[row] = self.snapshots[row][-1].length if self.snapshots[row] else 0
        for index, layer in enumerate(self._states()):
            for name, tensor in layer.items():
                changed = tensor.clone()
                for row in rows:
                    changed[row] = self.snapshots[row][-1].layers[index][name][0] if self.snapshots[row] else 0
                self.layers[index][name] = changed

    # Rows

    def select(self, rows: Sequence[int]) -> Cache:
        """A new cache of these rows, in this order; a row may come several times. Shares no memory with this one."""
        chosen = Cache(self.config, self.policy)
        chosen.lengths = [self.lengths[row] for row in rows]
        chosen.snapshots = [list(self.snapshots[row]) for row in rows]
        room = max(_FIRST_CAPACITY, 2 * chosen.length)

        def gather(name: str, tensor: Tensor) -> Tensor:
            index = torch.tensor(rows, dtype=torch.long, device=tensor.device)
            return (tensor[:, :, :room] if name in GROWING else tensor).index_select(0, index)

        chosen.layers = [{name: gather(name, tensor) for name, tensor in layer.items()} for layer in self.layers]
        chosen._seen = None if self._seen is None else gather("seen", self._seen)
        return chosen

    @classmethod
    def concatenate(cls, caches: Sequence[Cache]) -> Self:
        """A new cache with the rows of all `caches`, in order; they may differ in length."""
        first = caches[0]
        for cache in caches:
            if problem := shape_difference(first.config, cache.config):
                raise CacheError(f"caches of different models cannot be joined ({problem})")
            if cache._seen is None:
                raise CacheError("a cache that has seen no tokens cannot be joined to others: read a prompt into it")
            if cache._kind() != first._kind():
                raise CacheError("caches on different devices or of different dtypes cannot be joined: use Cache.to")
        joined = cls(first.config, first.policy)
        lengths = [cache.length for cache in caches]
        for index, layer in enumerate(joined.layers):
            for name in first.layers[index]:
                parts = [cache.layers[index][name] for cache in caches]
                layer[name] = _joined(parts, lengths) if name in GROWING else torch.cat(parts)
        seen = [cache._seen.unsqueeze(1) for cache in caches if cache._seen is not None]
        joined._seen = _joined(seen, lengths)[:, 0]
        joined.lengths = [length for cache in caches for length in cache.lengths]
        joined.snapshots = [list(row) for cache in caches for row in cache.snapshots]
        return joined

    def clone(self) -> Cache:
        """An independent copy: continuing one leaves the other unchanged."""
        return self.select(range(self.batch))

    def adopt(self, other: Cache) -> None:
        """Become `other`, which must not be used any more."""
        self.config, self.policy = other.config, other.policy
        self.layers, self.lengths, self.snapshots = other.layers, other.lengths, other.snapshots
        self._seen, self._ends = other._seen, None

    def restore(self, snapshot: Cache) -> None:
        """Return to the moment `snapshot` was cloned; the snapshot stays usable."""
        self.adopt(snapshot.clone())

    # Place and size

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move, in place. Keys, values and convolution inputs take `dtype`, recurrent states stay in float32.

        Attention computes in the model's dtype whatever the cache has: float16 halves the memory of keys and
        values of a float32 model, at float16's precision.
        """

        def moved(name: str, tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=None if name == _EXACT else dtype)

        self.layers = [{name: moved(name, tensor) for name, tensor in layer.items()} for layer in self.layers]
        self.snapshots = [
            [
                Snapshot(one.length, tuple({n: moved(n, tensor) for n, tensor in part.items()} for part in one.layers))
                for one in row
            ]
            for row in self.snapshots
        ]
        self._seen, self._ends = None if self._seen is None else self._seen.to(device=device), None
        return self

    def sizes(self) -> CacheSizes:
        """Bytes by purpose (the token ids, 4 bytes each, are left out)."""
        growing = [tensor for layer in self.layers for name, tensor in layer.items() if name in GROWING]
        a_token = sum(tensor[0, :, 0].nbytes for tensor in growing)
        filled = sum(self.lengths) * a_token
        return CacheSizes(
            keys_and_values=filled,
            states=sum(tensor.nbytes for layer in self._states() for tensor in layer.values()),
            snapshots=sum(snapshot.size_bytes() for row in self.snapshots for snapshot in row),
            spare=sum(tensor.nbytes for tensor in growing) - filled,
        )

    def size_bytes(self) -> int:
        """Bytes that hold tokens seen so far (spare room and snapshots not counted: see `sizes`)."""
        sizes = self.sizes()
        return sizes.keys_and_values + sizes.states

    # Files

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file, whole or not at all."""
        tensors: dict[str, Tensor] = {}
        for index, layer in enumerate(self.layers):
            tensors |= {f"{index}.{name}": self._filled(name, tensor) for name, tensor in layer.items()}
        if self._seen is not None:
            tensors["seen"] = self._filled("seen", self._seen.unsqueeze(1))[:, 0]
        for row, snapshots in enumerate(self.snapshots):
            for snapshot in snapshots:
                for index, part in enumerate(snapshot.layers):
                    prefix = f"snapshot.{row}.{snapshot.length}.{index}"
                    tensors |= {f"{prefix}.{name}": tensor for name, tensor in part.items()}
        lengths = [[snapshot.length for snapshot in row] for row in self.snapshots]
        write(Path(path), SavedCache(shape_fields(self.config), self.lengths, lengths, tensors))

    @classmethod
    def load(
        cls, path: str | Path, config: ModelConfig, device: str = "cpu", snapshots: SnapshotPolicy = DEFAULT_SNAPSHOTS
    ) -> Self:
        """Read what `save` wrote, for a model of this configuration; another model's file is refused.

        The weights are not compared: a cache is of use only to the checkpoint that filled it.
        """
        saved = read(Path(path), device)
        if problem := _difference(saved.model, shape_fields(config)):
            raise CacheError(f"{path} was filled by another model ({problem}): fill a new cache from the prompt")
        cache = cls(config, snapshots)
        try:
            cache._take(saved)
        except (KeyError, IndexError) as error:
            raise CacheError(
                f"{path} is not a whole cache (missing {error}): fill a new one from the prompt"
            ) from error
        return cache

    def _take(self, saved: SavedCache) -> None:
        self.lengths = saved.lengths
        states: dict[tuple[int, int], list[dict[str, Tensor]]] = {
            (row, length): [{} for _ in self.layers]
            for row, lengths in enumerate(saved.snapshots)
            for length in lengths
        }
        for full_name, tensor in saved.tensors.items():
            match full_name.split("."):
                case ["snapshot", row, length, layer, name]:
                    states[int(row), int(length)][int(layer)][name] = tensor
                case ["seen"]:
                    self._seen = tensor
                case [layer, name]:
                    self.layers[int(layer)][name] = tensor
        self.snapshots = [
            [Snapshot(length, tuple(states[row, length])) for length in lengths]
            for row, lengths in enumerate(saved.snapshots)
        ]

    def _filled(self, name: str, tensor: Tensor) -> Tensor:
        """Cut to the longest row, and zero behind shorter ones: spare room holds whatever was in memory."""
        if name not in (*GROWING, "seen"):
            return tensor
        cut = tensor[:, :, : self.length]
        if self.is_even:
            return cut
        times = torch.arange(self.length, device=tensor.device)
        inside = times < torch.tensor(self.lengths, device=tensor.device).unsqueeze(1)
        return torch.where(inside.view(self.batch, 1, -1, *(1 for _ in range(tensor.dim() - 3))), cut, 0)

    def _states(self) -> list[LayerMemory]:
        """What cannot be cut: everything but keys and values."""
        return [{name: tensor for name, tensor in layer.items() if name not in GROWING} for layer in self.layers]

    def _kind(self) -> list[tuple[int, str, torch.dtype, torch.device]]:
        return [
            (index, name, layer[name].dtype, layer[name].device)
            for index, layer in enumerate(self.layers)
            for name in sorted(layer)
        ]


def shape_fields(config: ModelConfig) -> dict[str, object]:
    """What a cache's contents depend on: the fingerprint of a model's shape."""
    unrelated = {"pattern", "layer_kinds", "maximum_context", "linear_initializer_scale", "embedding_initializer_std"}
    return config.model_dump(mode="json", exclude=unrelated) | {"mixer_kinds": list(config.mixer_kinds)}


def shape_difference(first: ModelConfig, second: ModelConfig) -> str:
    """In which fields two models' caches differ; empty when they are alike."""
    return "" if first == second else _difference(shape_fields(first), shape_fields(second))


def _difference(first: Mapping[str, object], second: Mapping[str, object]) -> str:
    names = [name for name in sorted(first.keys() | second.keys()) if first.get(name) != second.get(name)]
    return ", ".join(f"{name} {first.get(name)}, here {second.get(name)}" for name in names)


def _with_room(held: Tensor | None, new: Tensor, dim: int, length: int, end: int) -> Tensor:
    """`held`, or a buffer of twice its room with its contents, so that appending costs constant time a token."""
    if held is not None and held.shape[dim] >= end:
        return held
    shape = list(new.shape)
    shape[dim] = max(end, _FIRST_CAPACITY, 0 if held is None else 2 * held.shape[dim])
    # Zeros, because shorter rows' attention gives what lies behind them the weight zero, and zero times NaN is NaN.
    room = torch.zeros(shape, dtype=new.dtype if held is None else held.dtype, device=new.device)
    if held is not None:
        room.narrow(dim, 0, length).copy_(held.narrow(dim, 0, length))
    return room


def _joined(buffers: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
    """Rows of several buffers `[batch, heads, capacity, ...]` in one, with their `lengths` and some room."""
    first = buffers[0]
    capacity = max(_FIRST_CAPACITY, max(lengths) * 5 // 4)
    shape = [sum(part.shape[0] for part in buffers), first.shape[1], capacity, *first.shape[3:]]
    result = torch.zeros(shape, dtype=first.dtype, device=first.device)
    row = 0
    for part, length in zip(buffers, lengths, strict=True):
        result[row : row + part.shape[0], :, :length] = part[:, :, :length]
        row += part.shape[0]
    return result
