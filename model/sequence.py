"""What every layer of one forward pass shares: positions, document boundaries, the cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from model.cache import Cache
from model.config import ModelConfig
from model.errors import CacheError
from model.ops.rotary import RotaryTables, rotary_tables


@dataclass
class Sequence:
    """One call's tokens as the mixers see them. Tables are made when first asked for, then shared."""

    config: ModelConfig
    batch: int
    time: int
    device: torch.device
    document_ids: Tensor | None = None
    cache: Cache | None = None

    def __post_init__(self) -> None:
        if self.cache is None:
            return
        self.cache.check_batch(self.batch)
        if self.document_ids is not None:
            raise CacheError("document_ids with a cache: generate one document a row, or leave the cache out")

    @property
    def offset(self) -> int:
        """Tokens before this call's first."""
        return 0 if self.cache is None else self.cache.length

    @cached_property
    def document_starts(self) -> Tensor | None:
        """`[batch, time]`, true on the first token of every document; None when rows are single documents."""
        if self.document_ids is None:
            return None
        starts = torch.ones_like(self.document_ids, dtype=torch.bool)
        starts[:, 1:] = self.document_ids[:, 1:] != self.document_ids[:, :-1]
        return starts

    @cached_property
    def document_positions(self) -> Tensor | None:
        """`[batch, time]`, tokens since the start of the token's document."""
        if self.document_starts is None:
            return None
        index = torch.arange(self.time, device=self.device).expand(self.batch, -1)
        return index - torch.where(self.document_starts, index, 0).cummax(dim=1).values

    @cached_property
    def document_lengths(self) -> list[int] | None:
        """Lengths of the documents, row after row."""
        if self.document_starts is None:
            return None
        starts = self.document_starts.flatten().nonzero().flatten().tolist()
        return [end - start for start, end in zip(starts, [*starts[1:], self.batch * self.time], strict=True)]

    @cached_property
    def rotary(self) -> RotaryTables:
        """Rotary tables of the tokens' positions, which restart with each document."""
        positions = self.document_positions
        if positions is None:
            positions = torch.arange(self.offset, self.offset + self.time, device=self.device)
        return rotary_tables(positions, self.config.head_dim, self.config.rope_theta)
