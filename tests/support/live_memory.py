"""Bytes of tensors alive at once while something runs: what a GPU's allocator would count, on a CPU."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Within it, every storage an operation makes is counted until it is freed; `now` and `peak` are bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation; count what is new in its results."""
        result = func(*args, **(kwargs or {}))
        given = {part.untyped_storage()._cdata for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)}
        for part in tree_leaves(result):
            if isinstance(part, Tensor) and part.untyped_storage()._cdata not in given:
                self._count(part)
        return result

    def start_peak(self) -> None:
        """Forget the peak so far."""
        self.peak = self.now

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def freed(_: object) -> None:
            self.now -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)
