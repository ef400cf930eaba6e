"""How batches are numbered when some are skipped, and how the rows of one are dealt to ranks and micro-batches."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace

from infra.errors import ConfigurationError


@dataclass(frozen=True)
class BatchNumbers:
    """Which batch each update trains on, when offending batches are skipped: both are counted from 0."""

    skipped: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Whatever order the skipped numbers come in."""
        object.__setattr__(self, "skipped", tuple(sorted(set(self.skipped))))
        if self.skipped and self.skipped[0] < 0:
            raise ValueError(f"batch numbers are not negative: {self.skipped[0]}")

    def batch(self, update: int) -> int:
        """The number of the batch of update `update`: the `update`-th number that is not skipped."""
        # skipped[k] - k of the numbers below skipped[k] are not skipped.
        kept_before = [number - index for index, number in enumerate(self.skipped)]
        return update + bisect_right(kept_before, update)

    def drawn(self, updates: int) -> int:
        """Batches that so many updates trained on or skipped."""
        return self.batch(updates - 1) + 1 if updates else 0

    def skipping(self, *batches: int) -> BatchNumbers:
        """These with more batches skipped."""
        return BatchNumbers((*self.skipped, *batches))


@dataclass(frozen=True)
class BatchPlan:
    """How the rows of a global batch are dealt to ranks and micro-batches.

    `sequence_parallel` consecutive ranks form a group that shares rows: each holds an equal stretch of their tokens.
    `first_row_of_stage` is the row of the data order that the stage begins with.
    """

    rows_per_step: int
    micro_batch: int
    ranks: int
    sequence_parallel: int = 1
    first_row_of_stage: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigurationError when the rows cannot be dealt out equally."""
        if self.ranks % self.sequence_parallel:
            raise ConfigurationError(
                f"{self.ranks} ranks cannot be split into groups of sequence_parallel {self.sequence_parallel}.",
                "make ranks a multiple of sequence_parallel.",
            )
        if self.rows_per_step % (self.micro_batch * self.data_ranks):
            raise ConfigurationError(
                f"a batch of {self.rows_per_step} rows cannot be dealt to {self.data_ranks} data-parallel ranks in "
                f"micro-batches of {self.micro_batch} rows.",
                "make the rows of a batch a multiple of micro_batch x ranks / sequence_parallel.",
            )

    @property
    def data_ranks(self) -> int:
        """Groups of ranks that work on rows of their own."""
        return self.ranks // self.sequence_parallel

    @property
    def accumulation(self) -> int:
        """Micro-batches a rank runs for one update."""
        return self.rows_per_step // (self.micro_batch * self.data_ranks)

    def sequence_rank(self, rank: int) -> int:
        """Which stretch of its rows' tokens `rank` holds."""
        return rank % self.sequence_parallel

    def batch_start(self, batch: int) -> int:
        """The first of the `rows_per_step` rows of batch `batch`."""
        return self.first_row_of_stage + batch * self.rows_per_step

    def first_row(self, batch: int, micro_step: int, rank: int) -> int:
        """The first of the `micro_batch` rows that `rank` runs as micro-batch `micro_step` of batch `batch`."""
        data_rank = rank // self.sequence_parallel
        return self.batch_start(batch) + (micro_step * self.data_ranks + data_rank) * self.micro_batch

    def with_smaller_micro_batch(self) -> BatchPlan:
        """The same rows an update in micro-batches at most half as large: the largest that deal out equally.

        Raises ConfigurationError when a micro-batch is one row already.
        """
        if self.micro_batch == 1:
            raise ConfigurationError(
                "a micro-batch is already a single row and cannot be halved.",
                "set gradient_checkpointing, a higher zero_stage or sequence_parallel, or lower context_tokens.",
            )
        rows_of_rank = self.rows_per_step // self.data_ranks
        smaller = next(rows for rows in range(self.micro_batch // 2, 0, -1) if rows_of_rank % rows == 0)
        return replace(self, micro_batch=smaller)
