"""The Huffman tree of hierarchical softmax, as fastText builds it from the labels' counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.text.batch import Positions
from tasks.text.engine import Engine, compiled, engine

#: fastText's count of nodes that do not exist yet.
_NO_COUNT = 10**15
#: fastText adds it to each probability before its logarithm.
LOG_FLOOR = 1e-5


@dataclass(frozen=True)
class Hierarchy:
    """Edges of the tree, level by level from the root. Nodes below `labels` are leaves, that is labels.

    levels: for each level (parents, children, goes_right), [edges of the level] each.
    """

    labels: int
    levels: tuple[tuple[Positions, Positions, npt.NDArray[np.bool_]], ...]

    def probabilities(self, chances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """[texts, labels] from the chance to go right at each inner node, [texts, labels - 1].

        Products of what fastText adds up as logarithms.
        """
        found = np.ones((len(chances), 2 * self.labels - 1))
        if engine() is not Engine.NUMPY:
            for parents, children, goes_right in self.levels:
                _walk_level(chances, self.labels, parents, children, goes_right, found)
            return found[:, : self.labels]
        right, left = chances + LOG_FLOOR, 1.0 - chances + LOG_FLOOR
        for parents, children, goes_right in self.levels:
            inner = parents - self.labels
            found[:, children] = found[:, parents] * np.where(goes_right, right[:, inner], left[:, inner])
        return found[:, : self.labels]


@compiled
def _walk_level(
    chances: npt.NDArray[np.float64],
    labels: int,
    parents: Positions,
    children: Positions,
    goes_right: npt.NDArray[np.bool_],
    found: npt.NDArray[np.float64],
) -> None:
    """Fill the columns `children` of found [texts, nodes] from those of their parents."""
    for text in range(len(chances)):
        for edge in range(len(parents)):
            chance = chances[text, parents[edge] - labels]
            step = chance + LOG_FLOOR if goes_right[edge] else 1.0 - chance + LOG_FLOOR
            found[text, children[edge]] = found[text, parents[edge]] * step


def build_hierarchy(counts: Sequence[int]) -> Hierarchy:
    """Join the two rarest nodes until one is left; `counts` are expected in descending order, as fastText does."""
    labels = len(counts)
    weights = [*counts, *[_NO_COUNT] * (labels - 1)]
    parent, goes_right = [-1] * len(weights), [False] * len(weights)
    leaf, node = labels - 1, labels
    for joined in range(labels, len(weights)):
        chosen = []
        for _ in range(2):
            if leaf >= 0 and weights[leaf] < weights[node]:
                chosen.append(leaf)
                leaf -= 1
            else:
                chosen.append(node)
                node += 1
        weights[joined] = weights[chosen[0]] + weights[chosen[1]]
        parent[chosen[0]] = parent[chosen[1]] = joined
        goes_right[chosen[1]] = True
    return Hierarchy(labels, tuple(_levels(parent, goes_right)))


def _levels(parent: list[int], goes_right: list[bool]) -> list[tuple[Positions, Positions, npt.NDArray[np.bool_]]]:
    depth = [0] * len(parent)
    for node in range(len(parent) - 2, -1, -1):  # parents come after their children
        depth[node] = depth[parent[node]] + 1
    levels = []
    for level in range(1, max(depth) + 1):
        children = [node for node in range(len(parent)) if depth[node] == level]
        levels.append(
            (
                np.array([parent[child] for child in children]),
                np.array(children),
                np.array([goes_right[child] for child in children]),
            )
        )
    return levels
