"""What every layer of one forward pass shares: positions, document boundaries, the cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from model.cache import Cache
from model.config import ModelConfig
from model.errors import CacheError
from model.ops.rotary import RotaryTables, rotary_tables


class Ragged(NamedTuple):
    """Rows of different lengths in one call over a cache."""

    ends: list[int]  # tokens of each row, this call's included
    inside: Tensor  # [batch, longest], true where a row has a token


@dataclass
class Sequence:
    """One call's tokens as the mixers see them. Tables are made when first asked for, then shared."""

    config: ModelConfig
    batch: int
    time: int
    device: torch.device
    document_ids: Tensor | None = None
    cache: Cache | None = None
    #: Whether only the last token's output is read: mixers may return it alone, `[batch, 1, width]`.
    last_alone: bool = False

    def __post_init__(self) -> None:
        if self.cache is None:
            return
        self.cache.bind(self.config, self.batch)
        if self.document_ids is not None:
            raise CacheError("document_ids with a cache: generate one document a row, or leave the cache out")

    @cached_property
    def ragged(self) -> Ragged | None:
        """Where each row ends after this call; None when all rows end alike."""
        if self.cache is None or self.cache.is_even:
            return None
        lengths = [length + self.time for length in self.cache.lengths]
        ends = torch.tensor(lengths, device=self.device)
        return Ragged(lengths, torch.arange(max(lengths), device=self.device) < ends.unsqueeze(1))

    @cached_property
    def positions(self) -> Tensor:
        """Tokens since the start of the token's document, `[time]` where all rows agree, else `[batch, time]`."""
        if self.document_positions is not None:
            return self.document_positions
        index = torch.arange(self.time, device=self.device)
        if self.cache is None:
            return index
        if self.cache.is_even:
            return index + self.cache.length
        return index + torch.tensor(self.cache.lengths, device=self.device).unsqueeze(1)

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
        return rotary_tables(self.positions, self.config.head_dim, self.config.rope_theta)
