"""Which slice of a row this process has, and the processes that have the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch.distributed as distributed

from model.config import ModelConfig
from model.errors import ConfigurationError

#: Convolutions reach this many tokens back, into the neighbouring slice and no further.
LEAST_SLICE_TOKENS = 3


@dataclass(frozen=True)
class SequenceParallel:
    """A group of processes that share rows: the one of rank r has the r-th of `size` equal slices, in order.

    All processes of a group must make the same calls of the model, in the same order, forward and backward.
    """

    group: distributed.ProcessGroup
    rank: int
    size: int

    @classmethod
    def of(cls, group: distributed.ProcessGroup) -> Self:
        """All processes of `group`, which must hold this one."""
        return cls(group, distributed.get_rank(group), distributed.get_world_size(group))

    @classmethod
    def of_neighbours(cls, size: int) -> Self:
        """This process's group when every `size` ranks in a row share rows: ranks 0 to size - 1, and so on.

        Every process of the default group must call this, at the same point. Raises `ConfigurationError` when the
        processes cannot be divided so.
        """
        ranks = distributed.get_world_size()
        if size < 1 or ranks % size:
            raise ConfigurationError(f"sequence_parallel={size} does not divide the {ranks} ranks: choose a divisor")
        group, _ = distributed.new_subgroups(group_size=size)
        return cls.of(group)


def check_sequence_parallel(config: ModelConfig, context_tokens: int, size: int) -> None:
    """Raise `ConfigurationError` unless `size` processes can share rows of `context_tokens` of this model."""
    if context_tokens % size:
        raise ConfigurationError(
            f"sequence_parallel={size} does not divide context_tokens={context_tokens}: slices must be equal"
        )
    if size > 1 and context_tokens // size < LEAST_SLICE_TOKENS:
        raise ConfigurationError(
            f"sequence_parallel={size} leaves {context_tokens // size} of context_tokens={context_tokens} to a rank: "
            f"short convolutions need {LEAST_SLICE_TOKENS}"
        )
    if "attention" in config.mixer_kinds and config.attention_heads % size:
        raise ConfigurationError(
            f"sequence_parallel={size} does not divide attention_heads={config.attention_heads}: each rank attends "
            "with its share of the heads, so choose a divisor"
        )
