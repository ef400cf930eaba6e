"""Which source each row comes from, in exact proportions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tasks.training.data_order.random_order import random_order

Integers = npt.NDArray[np.int64]

#: Rows of one round of the mixture; weights are kept to one part in this many.
MIXTURE_ROUND_ROWS = 1024


class Mixture:
    """Which source each row of the run comes from, in rounds of `MIXTURE_ROUND_ROWS` rows.

    Every round holds each source's exact share, in an order drawn anew; so the number of a source's rows before
    any row is known without counting.
    """

    def __init__(self, weights: Sequence[float], key: str) -> None:
        self.counts = apportion(weights, MIXTURE_ROUND_ROWS)
        """[sources] rows of each source in a round."""
        self._key = key
        self._round = lru_cache(maxsize=2)(self._draw)

    def locate(self, first_row: int, rows: int) -> tuple[Integers, Integers]:
        """[rows] source and number within the source of rows [first_row, first_row + rows) of the run."""
        parts = []
        row, stop = first_row, first_row + rows
        while row < stop:
            round_number, place = divmod(row, MIXTURE_ROUND_ROWS)
            end = min(MIXTURE_ROUND_ROWS, place + stop - row)
            sources, ranks = (values[place:end] for values in self._round(round_number))
            parts.append((sources, ranks + round_number * self.counts[sources]))
            row += end - place
        sources, numbers = (np.concatenate(part) for part in zip(*parts, strict=True))
        return sources, numbers

    def _draw(self, round_number: int) -> tuple[Integers, Integers]:
        """Source of each row of a round, and how many rows of that source the round has before it."""
        ordered = np.repeat(np.arange(len(self.counts)), self.counts)
        sources = ordered[random_order(MIXTURE_ROUND_ROWS, self._key, "mixture", round_number)]
        ranks = np.empty_like(sources)
        for source, count in enumerate(self.counts):
            ranks[sources == source] = np.arange(count)
        return sources, ranks


def apportion(weights: Sequence[float], total: int) -> Integers:
    """Whole numbers that sum to `total` in proportion to `weights` (largest remainders)."""
    exact = np.asarray(weights, np.float64) / sum(weights) * total
    counts = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(-(exact - counts), kind="stable")
    counts[by_remainder[: total - int(counts.sum())]] += 1
    return counts
