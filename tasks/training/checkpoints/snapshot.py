"""A rank's fragments copied to main memory, so that training can go on while they are written.

The memory is taken once and used again for every checkpoint. From a GPU the copy runs on a stream of its own,
beside forward and backward; only the next update has to come after it, which the GPU sees to by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tasks.training.checkpoints.fragments import Fragment


class Snapshot:
    """Copies of fragments in reused main memory, page-locked when they come from a GPU."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)
        self._stream: Any = None
        self._copied: Any = None

    @torch.no_grad()
    def take(self, fragments: Sequence[Fragment]) -> list[Fragment]:
        """Start copying; the copies count only after `wait`. The copies of the last `take` are overwritten."""
        on_gpu = any(fragment.values.is_cuda for fragment in fragments)
        self._reserve(sum(fragment.values.numel() for fragment in fragments), on_gpu)
        copies, place = [], 0
        for fragment in fragments:
            length = fragment.values.numel()
            copies.append(replace(fragment, values=self._memory[place : place + length]))
            place += length
        if on_gpu:
            self._copy_beside(fragments, copies)
        else:
            _copy(fragments, copies)
        return copies

    def wait(self) -> None:
        """Return when the copies are complete."""
        if self._copied is not None:
            self._copied.synchronize()

    def before_update(self) -> None:
        """Make the update that is about to be queued on the GPU come after the copies; the host does not wait."""
        if self._copied is not None:
            torch.cuda.current_stream().wait_event(self._copied)

    def _reserve(self, length: int, on_gpu: bool) -> None:
        if self._memory.numel() < length:
            self._memory = torch.empty(0)  # free the old one first
            self._memory = torch.empty(length, dtype=torch.float32, pin_memory=on_gpu)

    def _copy_beside(self, fragments: Sequence[Fragment], copies: Sequence[Fragment]) -> None:
        if self._stream is None:
            self._stream, self._copied = torch.cuda.Stream(), torch.cuda.Event()
        self._stream.wait_stream(torch.cuda.current_stream())  # the last update comes first
        with torch.cuda.stream(self._stream):
            _copy(fragments, copies)
            self._copied.record(self._stream)


def _copy(fragments: Sequence[Fragment], copies: Sequence[Fragment]) -> None:
    for fragment, copy in zip(fragments, copies, strict=True):
        values: Tensor = fragment.values.detach().flatten()
        copy.values.copy_(values, non_blocking=values.is_cuda)
