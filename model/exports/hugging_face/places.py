"""How stored tensors are made of parameters, and parameters found again in stored tensors.

One table of places serves both directions, so an export is read back as it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import ConfigurationError

Shapes = Sequence[torch.Size]


@dataclass(frozen=True)
class Place:
    """A tensor stored as it is: its name in the file and the parameter's in the model."""

    stored: str
    parameters: tuple[str, ...]

    def store(self, parameters: Sequence[Tensor]) -> Tensor:
        """What the file holds for these parameters."""
        return parameters[0]

    def restore(self, stored: Tensor, shapes: Shapes) -> Sequence[Tensor]:
        """The parameters, of these shapes, that a stored tensor holds."""
        return [stored]


@dataclass(frozen=True)
class JoinedRows(Place):
    """Several matrices (or convolutions) stored as one, rows below rows."""

    def store(self, parameters: Sequence[Tensor]) -> Tensor:
        """`[rows, …]` each to `[sum of rows, …]`."""
        return torch.cat(list(parameters))

    def restore(self, stored: Tensor, shapes: Shapes) -> Sequence[Tensor]:
        """Copies, so that no parameter shares memory with another."""
        return [part.clone() for part in stored.split([shape[0] for shape in shapes])]


@dataclass(frozen=True)
class Scaled(Place):
    """Stored as `factor` times the parameter; exact when the factor is a power of two, else rounded once."""

    factor: float

    def store(self, parameters: Sequence[Tensor]) -> Tensor:
        """Times the factor."""
        return parameters[0] * self.factor

    def restore(self, stored: Tensor, shapes: Shapes) -> Sequence[Tensor]:
        """Divided by the factor."""
        return [stored / self.factor]


@dataclass(frozen=True)
class ZeroCentred(Place):
    """A norm's weight stored as `weight - 1`, for models that multiply by `1 + weight`.

    In float32 exact for weights from 0.5 to 2**24; smaller and negative ones come back within 2**-24 * (1 + |weight|).
    """

    def store(self, parameters: Sequence[Tensor]) -> Tensor:
        """Minus one."""
        return parameters[0] - 1

    def restore(self, stored: Tensor, shapes: Shapes) -> Sequence[Tensor]:
        """Plus one."""
        return [stored + 1]


@dataclass(frozen=True)
class UngatedQueries(Place):
    """Queries stored with an output gate that is always sigmoid(0) = 1/2: after each head's rows, rows of zero."""

    head_dim: int

    def store(self, parameters: Sequence[Tensor]) -> Tensor:
        """`[heads * head_dim, width]` to `[heads * 2 * head_dim, width]`."""
        heads = parameters[0].unflatten(0, (-1, self.head_dim))
        return torch.cat([heads, torch.zeros_like(heads)], dim=1).flatten(0, 1)

    def restore(self, stored: Tensor, shapes: Shapes) -> Sequence[Tensor]:
        """The queries. Raises ConfigurationError when the gate does anything."""
        queries, gates = stored.unflatten(0, (-1, 2 * self.head_dim)).chunk(2, dim=1)
        if gates.count_nonzero():
            raise ConfigurationError(
                f"{self.stored} has an output gate, and our attention has none: only gate rows of zero can be read"
            )
        return [queries.flatten(0, 1).clone()]
