"""From exact duplicates and verified pairs to what goes and what stays for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from infra.storage.local import atomic_file
from tasks.deduplication.arrow_arrays import to_arrow
from tasks.deduplication.components import best_of_each, connected
from tasks.deduplication.corpus import Corpus
from tasks.deduplication.index import State
from tasks.deduplication.large_buckets import Links
from tasks.deduplication.pairs import unpack
from tasks.deduplication.units import EXACT, NEAR, ranks
from tasks.documents import write_table
from tasks.text.batch import Positions


@dataclass(frozen=True)
class Decisions:
    """The rows that go, ascending; everything else stays. Memory grows with the duplicates only.

    rows, keepers, exact, states, similarity: [duplicates]. A keeper at or beyond the corpus' own rows is of an
    earlier run.
    """

    rows: Positions
    keepers: Positions
    exact: npt.NDArray[np.bool_]
    states: npt.NDArray[np.uint8]
    similarity: npt.NDArray[np.float64]

    def write(self, path: Path) -> None:
        """Leave them for other processes."""
        with atomic_file(path) as stream:
            np.savez(
                stream,
                rows=self.rows,
                keepers=self.keepers,
                exact=self.exact,
                states=self.states,
                similarity=self.similarity,
            )

    @classmethod
    def read(cls, path: Path) -> Decisions:
        """What `write` left."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(**{name: stored[name] for name in stored.files})

    def cluster_sizes(self) -> tuple[Positions, Positions]:
        """Keepers, ascending, and how many documents each stands for, itself included."""
        keepers, counts = np.unique(self.keepers, return_counts=True)
        return keepers, counts + 1


def decide(corpus: Corpus, exact: Positions, links: Links) -> Decisions:
    """Clusters of verified pairs; the best document of each stays, and exact duplicates follow theirs.

    exact: [2, duplicates] rows that go and rows that stay for them.
    """
    first, second = unpack(links.pairs)
    rows = np.unique(np.concatenate((first, second)))
    places = np.searchsorted(rows, first), np.searchsorted(rows, second)
    labels = connected(len(rows), *places)
    best = rows[best_of_each(labels, *ranks(corpus, rows))] if len(rows) else rows
    highest = np.zeros(len(rows))
    for side in places:
        np.maximum.at(highest, side, links.similarity)
    goes = (best != rows) & (rows < corpus.own_rows)
    gone, their_keepers = rows[goes], best[goes]
    keepers = exact[1].copy()
    if len(gone):
        place = np.minimum(np.searchsorted(gone, keepers), len(gone) - 1)
        keepers = np.where(gone[place] == keepers, their_keepers[place], keepers)
    states = np.where(exact[1] < corpus.own_rows, State.REPEATED, State.REMOVED).astype(np.uint8)
    all_rows = np.concatenate((exact[0], gone))
    order = np.argsort(all_rows)
    return Decisions(
        all_rows[order],
        np.concatenate((keepers, their_keepers))[order],
        np.repeat([True, False], [len(keepers), len(gone)])[order],
        np.concatenate((states, np.full(len(gone), State.REMOVED, np.uint8)))[order],
        np.concatenate((np.ones(len(keepers)), highest[goes]))[order],
    )


def write_decisions(corpus: Corpus, decisions: Decisions, directory: Path) -> dict[str, Path]:
    """One table a shard with the rows that go, for the workers that write the result."""
    keeper_ids, keeper_sources = _keeper_names(corpus, decisions.keepers)
    paths = {}
    for shard in corpus.own:
        start, stop = np.searchsorted(decisions.rows, [shard.first_row, shard.first_row + shard.rows]).tolist()
        columns = {
            "place": to_arrow(decisions.rows[start:stop] - shard.first_row),
            "state": to_arrow(decisions.states[start:stop]),
            "reason": pa.array(np.where(decisions.exact[start:stop], EXACT, NEAR).tolist(), pa.string()),
            "score": to_arrow(decisions.similarity[start:stop]),
            "duplicate_of": keeper_ids[start:stop],
            "keeper_source": keeper_sources[start:stop],
        }
        paths[shard.name] = directory / f"{shard.name}.parquet"
        write_table(paths[shard.name], pa.table(columns))
    return paths


def _keeper_names(corpus: Corpus, keepers: Positions) -> tuple[pa.Array, pa.Array]:
    """Ids and sources of what stays, a row a duplicate."""
    distinct, places = np.unique(keepers, return_inverse=True)
    known = corpus.gather(distinct)
    earlier = distinct >= corpus.own_rows
    for shard, chosen in corpus.places(distinct[earlier]):
        rows = np.flatnonzero(earlier)[chosen]
        known.ids[rows] = shard.keeper_ids(distinct[rows] - shard.first_row).to_pylist()
    where = to_arrow(places)
    ids, sources = (pa.array(names.tolist(), pa.string()) for names in (known.ids, known.sources))
    return ids.take(where), sources.take(where)


def size_counts(sizes: Positions) -> Counter[int]:
    """Cluster size -> how many clusters of that size."""
    values, counts = np.unique(sizes, return_counts=True)
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
