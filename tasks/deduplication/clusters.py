"""From verified pairs to clusters, and the one document of each that stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.deduplication.minhash import Hashes, Positions, jaccard, shingle_sets


@dataclass(frozen=True)
class VerifiedPairs:
    """Pairs whose exact similarity reaches the threshold. pairs: [pairs, 2]; similarity: [pairs]."""

    pairs: Positions
    similarity: npt.NDArray[np.float64]


def verify(
    candidates: Positions,
    texts_of: Callable[[Sequence[int]], Sequence[str]],
    ngram_words: int,
    threshold: float,
) -> VerifiedPairs:
    """Keep the candidates whose exact Jaccard similarity is at least `threshold`."""
    needed = [int(index) for index in np.unique(candidates)]
    sets: dict[int, Hashes] = dict(zip(needed, shingle_sets(texts_of(needed), ngram_words), strict=True))
    similarity = np.array([jaccard(sets[int(a)], sets[int(b)]) for a, b in candidates], np.float64)
    kept = similarity >= threshold
    return VerifiedPairs(candidates[kept], similarity[kept])


def connected(count: int, pairs: Positions) -> Positions:
    """[count] cluster number of each item; items without a pair are alone in theirs."""
    # Imported here: worker processes need signatures only, and scipy takes half a second to load.
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    links = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    labels: Positions = connected_components(links, directed=False)[1].astype(np.int64)
    return labels


def best_of_each(
    labels: Positions, quality: npt.NDArray[np.float64], lengths: Positions, ids: Sequence[str]
) -> Positions:
    """[items] index of the item that stays for each item's cluster: best quality, then longest, then first id."""
    by_id = np.argsort(np.array(ids, dtype=object), kind="stable")
    id_rank = np.empty(len(ids), np.int64)
    id_rank[by_id] = np.arange(len(ids))
    order = np.lexsort((id_rank, -lengths, -quality, labels))
    sorted_labels = labels[order]
    heads = np.concatenate(([True], sorted_labels[1:] != sorted_labels[:-1])) if len(order) else np.zeros(0, np.bool_)
    best = np.empty(len(labels), np.int64)
    best[order] = order[heads][np.cumsum(heads) - 1]
    return best
