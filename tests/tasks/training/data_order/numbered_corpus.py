"""A corpus whose every token says where it came from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np


class NumberedShard:
    """Documents of consecutive numbers."""

    def __init__(self, name: str, lengths: Sequence[int], first_token: int) -> None:
        self.path = Path(name)
        self._starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        self.tokens = np.arange(first_token, first_token + self._starts[-1], dtype=np.int32)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def starts(self, numbers: np.ndarray) -> np.ndarray:
        return self._starts[numbers]


class Corpus:
    """Documents whose every token is a number of its own, in three shards; the last of each counts as end-of-text.

    With `first_token` 1, token 0 is padding and nothing else.
    """

    def __init__(self, lengths: list[int], sources: list[int] | None = None, first_token: int = 0) -> None:
        self.lengths = np.array(lengths, np.int64)
        self.sources = np.array(sources or [0] * len(lengths), np.int64)
        self.source_names = ["books", "mail", "code"]
        self.first = np.concatenate(([0], np.cumsum(self.lengths))) + first_token
        borders = [0, len(lengths) // 3, len(lengths) // 2, len(lengths)]
        self.shards = [
            NumberedShard(f"shard-{index}.bin", lengths[start:stop], int(self.first[start]))
            for index, (start, stop) in enumerate(pairwise(borders))
        ]

    def document(self, number: int) -> np.ndarray:
        return np.arange(self.first[number], self.first[number + 1])
