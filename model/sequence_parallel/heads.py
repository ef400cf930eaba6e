"""Heads for tokens: before attention every rank has all heads of its slice, during it some heads of the whole row.

DeepSpeed-Ulysses (Jacobs et al. 2023, arXiv:2309.14509), with queries, keys and values in one exchange.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from model.errors import ConfigurationError
from model.sequence_parallel.collectives import exchange
from model.sequence_parallel.context import SequenceParallel


def rows_of_own_heads(
    query: Tensor, key: Tensor, value: Tensor, context: SequenceParallel
) -> tuple[Tensor, Tensor, Tensor]:
    """All heads of the own slice, `[batch, slice, heads, head_dim]`, to own heads of the row, `[batch, time, …]`.

    Rank r gets the r-th part of the query heads and the key/value heads these read. Where the ranks do not divide
    the key/value heads, these are repeated until they do, so that every rank's share of the group sizes stays equal.
    Raises `ConfigurationError` when the ranks do not divide the query heads.
    """
    heads, narrow = query.shape[2], key.shape[2]
    if heads % context.size:
        raise ConfigurationError(
            f"attention_heads={heads} cannot be divided among {context.size} ranks: choose a sequence_parallel "
            "that divides it"
        )
    copies = math.lcm(narrow, context.size) // narrow
    if copies > 1:
        key, value = (part.repeat_interleave(copies, dim=2) for part in (key, value))
    shares = [part.unflatten(2, (context.size, -1)).movedim(2, 0) for part in (query, key, value)]
    sizes = [share.shape[3] for share in shares]
    row = exchange(torch.cat(shares, dim=3), context).transpose(0, 1).flatten(1, 2)
    own_query, own_key, own_value = row.split(sizes, dim=2)
    return own_query, own_key, own_value


def slice_of_all_heads(mixed: Tensor, context: SequenceParallel) -> Tensor:
    """The way back for what attention gave: `[batch, time, own heads, head_dim]` to `[batch, slice, heads, …]`."""
    slices = mixed.unflatten(1, (context.size, -1)).movedim(1, 0)
    received = exchange(slices, context)
    return received.permute(1, 2, 0, 3, 4).flatten(2, 3)
