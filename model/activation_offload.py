"""Activations kept in the processor's memory between the forward and the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# Hidden states are `[batch, time, width]`; the rows of lower bounds that recomputation also keeps are small.
_HIDDEN_DIMENSIONS = 3


@contextmanager
def offloaded_activations() -> Iterator[None]:
    """Within it, hidden states that autograd keeps are copied to the processor's memory and brought back when needed.

    On a GPU, copies go to pinned memory on a stream of their own while computing goes on, and the backward pass asks
    for each while the block after it is worked on. On a CPU they are copies in plain memory, and save nothing.
    """
    transfers = _Transfers()
    with torch.autograd.graph.saved_tensors_hooks(transfers.take, transfers.give):
        yield


class _Offloaded:
    """One activation away from its device."""

    def __init__(self, host: Tensor, device: torch.device, order: int) -> None:
        self.host, self.device, self.order = host, device, order
        self.returning: Tensor | None = None


class _Transfers:
    """Copies of one forward pass, in order; they return in the opposite order."""

    def __init__(self) -> None:
        self._kept: list[_Offloaded] = []
        self._stream: torch.cuda.Stream | None = None

    def take(self, tensor: Tensor) -> Tensor | _Offloaded:
        """What autograd keeps in place of `tensor`."""
        if tensor.dim() != _HIDDEN_DIMENSIONS or not tensor.is_floating_point():
            return tensor
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        if tensor.is_cuda:
            stream = self._side_stream(tensor.device)
            stream.wait_stream(torch.cuda.current_stream(tensor.device))
            with torch.cuda.stream(stream):
                host.copy_(tensor, non_blocking=True)
            # Its memory must not be used again before the copy is made.
            tensor.record_stream(stream)
        else:
            host.copy_(tensor)
        offloaded = _Offloaded(host, tensor.device, len(self._kept))
        self._kept.append(offloaded)
        return offloaded

    def give(self, kept: Tensor | _Offloaded) -> Tensor:
        """The tensor that `take` was given; the one before it is asked for meanwhile."""
        if isinstance(kept, Tensor):
            return kept
        if kept.device.type != "cuda":
            return kept.host
        returned = self._bring(kept)
        current = torch.cuda.current_stream(kept.device)
        current.wait_stream(self._side_stream(kept.device))
        returned.record_stream(current)
        kept.returning = None
        if kept.order:
            self._bring(self._kept[kept.order - 1])
        return returned

    def _bring(self, offloaded: _Offloaded) -> Tensor:
        if offloaded.returning is None:
            with torch.cuda.stream(self._side_stream(offloaded.device)):
                offloaded.returning = offloaded.host.to(offloaded.device, non_blocking=True)
        return offloaded.returning

    def _side_stream(self, device: torch.device) -> torch.cuda.Stream:
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        return self._stream
