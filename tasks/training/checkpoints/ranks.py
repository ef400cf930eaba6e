"""The ranks as checkpoints see them: sums over all, and who sees the same directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from infra.errors import ConfigurationError
from infra.storage.local import atomic_file

#: Whole numbers of so many bits go through a sum of 64-bit floats unharmed.
EXACT_BITS = 48


class Ranks(Protocol):
    """This process among the others (`Placement` is one)."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""

    @property
    def ranks(self) -> int:
        """How many there are."""

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all ranks, which all must call this."""


def from_first(ranks: Ranks, value: int) -> int:
    """The first rank's value, on all ranks; below 2^48."""
    return int(ranks.sum(float(value if ranks.rank == 0 else 0))[0])


@dataclass(frozen=True)
class SharedDirectory:
    """by_all: whether every rank sees the same directory; index, count: this rank among those that do."""

    by_all: bool
    index: int
    count: int

    @classmethod
    def find_out(cls, directory: Path, ranks: Ranks, *, has_remote: bool) -> SharedDirectory:
        """Try it out. Raises ConfigurationError when it is not shared and there is no remote place either."""
        if _all_see(directory, ranks):
            return cls(True, ranks.rank, ranks.ranks)
        if not has_remote:
            raise ConfigurationError(
                f"the ranks on other machines do not see the checkpoint directory '{directory}'.",
                "put it on a disk that all machines mount, or give a remote place for checkpoints (s3://...).",
            )
        # torchrun tells each process which of its machine's it is.
        return cls(False, int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _all_see(directory: Path, ranks: Ranks) -> bool:
    if ranks.ranks == 1:
        return True
    probe = directory / f".seen-{os.getpid()}-by-rank-0"
    key = from_first(ranks, os.getpid())
    if ranks.rank == 0:
        with atomic_file(probe):
            pass
    ranks.sum(0.0)  # it is there now
    seen = ranks.sum(float((directory / f".seen-{key}-by-rank-0").exists()))[0]
    if ranks.rank == 0:
        probe.unlink()
    return int(seen) == ranks.ranks
