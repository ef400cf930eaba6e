"""From verified pairs to clusters, and the one document of each that stays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tasks.text.batch import Positions
from tasks.text.engine import Engine, compiled, engine

_FEW_PAIRS = 1 << 17


def connected(count: int, first: Positions, second: Positions) -> Positions:
    """[count] cluster of each item, named by its smallest member; items without a pair are alone in theirs."""
    # Loading the compiled loop takes a second, which the stage's own process spends while its workers wait.
    if engine() is Engine.NUMPY or len(first) < _FEW_PAIRS:
        return _connected_by_numpy(count, first, second)
    labels = np.arange(count)
    _join(labels, first, second)
    return labels


@compiled
def _join(parents: Positions, first: Positions, second: Positions) -> None:
    """Union-find with path halving (Tarjan & van Leeuwen 1984); the smaller root stays."""
    for pair in range(len(first)):
        a, b = first[pair], second[pair]
        while parents[a] != a:
            parents[a] = parents[parents[a]]
            a = parents[a]
        while parents[b] != b:
            parents[b] = parents[parents[b]]
            b = parents[b]
        parents[max(a, b)] = min(a, b)
    for item in range(len(parents)):  # parents are smaller, so each one's is final when it is read
        parents[item] = parents[parents[item]]


def _connected_by_numpy(count: int, first: Positions, second: Positions) -> Positions:
    labels = np.arange(count)
    while True:
        smallest = np.minimum(labels[first], labels[second])
        before = labels.copy()
        for side in (first, second):
            np.minimum.at(labels, labels[side], smallest)
            np.minimum.at(labels, side, smallest)
        while not np.array_equal(labels, labels[labels]):
            labels = labels[labels]
        if np.array_equal(labels, before):
            return labels


def best_of_each(labels: Positions, *ranks: npt.NDArray[np.generic]) -> Positions:
    """[items] the item that stays for each item's cluster: the one with the lowest ranks, the first rank first."""
    order = np.lexsort((*reversed(ranks), labels))
    ordered = labels[order]
    best = np.empty(len(labels), np.int64)
    if len(order):
        heads = np.concatenate(([True], ordered[1:] != ordered[:-1]))
        best[order] = order[heads][np.cumsum(heads) - 1]
    return best
