"""Pieces of whole tensors: what one rank holds of the weights and of the optimiser's moments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

WEIGHTS = "weights"


def weight_key(parameter: str) -> str:
    """Name of a parameter's fp32 weights in a checkpoint."""
    return f"{WEIGHTS}.{parameter}"


def moment_key(moment: str, parameter: str) -> str:
    """Name of one of the optimiser's moments (`exp_avg`, ...) of a parameter in a checkpoint."""
    return f"{moment}.{parameter}"


def is_weight(tensor: str) -> bool:
    """Whether a name in a checkpoint is of weights, not of a moment."""
    return tensor.startswith(f"{WEIGHTS}.")


@dataclass(frozen=True)
class Fragment:
    """A contiguous piece of a whole tensor, flattened in row-major order.

    tensor: its name in the checkpoint. shape: of the whole tensor. start: place of the first value in the flat
    tensor. values: `[length]` fp32, anywhere; a view where it can be, so it changes with the next update.
    """

    tensor: str
    shape: tuple[int, ...]
    start: int
    values: Tensor

    @property
    def stop(self) -> int:
        """Place after the last value."""
        return self.start + self.values.numel()


def deal(whole: Iterable[Fragment], rank: int, ranks: int) -> Iterator[Fragment]:
    """This rank's share of tensors that every rank has whole: as many values for each rank, to one."""
    tensors = list(whole)
    total = sum(fragment.values.numel() for fragment in tensors)
    first, last = total * rank // ranks, total * (rank + 1) // ranks
    place = 0
    for fragment in tensors:
        length = fragment.values.numel()
        start, stop = max(first - place, 0), min(last - place, length)
        if start < stop:
            yield Fragment(fragment.tensor, fragment.shape, start, fragment.values.flatten()[start:stop])
        place += length
