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
from model.sequence_parallel import SequenceParallel, own_slice
from model.sequence_parallel.collectives import gather


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
    #: With it the tokens are one slice of longer rows, the rest of which other processes have.
    sequence_parallel: SequenceParallel | None = None

    def __post_init__(self) -> None:
        if self.cache is None:
            return
        if self.sequence_parallel is not None:
            raise CacheError("sequence_parallel with a cache: it is for training, generate with one process a row")
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
        if self.sequence_parallel is not None:
            return index + self.sequence_parallel.rank * self.time
        if self.cache is None:
            return index
        if self.cache.is_even:
            return index + self.cache.length
        return index + torch.tensor(self.cache.lengths, device=self.device).unsqueeze(1)

    @cached_property
    def document_starts(self) -> Tensor | None:
        """`[batch, time]`, true on the first token of every document; None when rows are single documents."""
        return None if self._row_starts is None else self._own(self._row_starts)

    @cached_property
    def document_positions(self) -> Tensor | None:
        """`[batch, time]`, tokens since the start of the token's document."""
        if self._row_starts is None:
            return None
        index = torch.arange(self._row_starts.shape[1], device=self.device).expand(self.batch, -1)
        return self._own(index - torch.where(self._row_starts, index, 0).cummax(dim=1).values)

    @cached_property
    def document_lengths(self) -> list[int] | None:
        """Lengths of the documents, row after row; of whole rows also where the tokens are a slice of them."""
        if self._row_starts is None:
            return None
        starts = self._row_starts.flatten().nonzero().flatten().tolist()
        return [end - start for start, end in zip(starts, [*starts[1:], self._row_starts.numel()], strict=True)]

    @cached_property
    def _row_starts(self) -> Tensor | None:
        """Document starts in whole rows, `[batch, row]`: gathered once a call where processes share rows."""
        if self.document_ids is None:
            return None
        ids = self.document_ids
        if self.sequence_parallel is not None:
            ids = gather(ids, self.sequence_parallel).transpose(0, 1).flatten(1)
        starts = torch.ones_like(ids, dtype=torch.bool)
        starts[:, 1:] = ids[:, 1:] != ids[:, :-1]
        return starts

    def _own(self, rows: Tensor) -> Tensor:
        """This process's part of whole rows `[batch, row]`."""
        if self.sequence_parallel is None:
            return rows
        return own_slice(rows, self.sequence_parallel.rank, self.sequence_parallel.size)

    @cached_property
    def rotary(self) -> RotaryTables:
        """Rotary tables of the tokens' positions, which restart with each document."""
        return rotary_tables(self.positions, self.config.head_dim, self.config.rope_theta)
