"""The one cut of a whole corpus: counts of quantised scores that add up, whoever counted which part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from tasks.documents import read_table, write_table
from tasks.quality.rules import SCORE_LEVELS

Levels = npt.NDArray[np.uint16]


@dataclass
class ScoreHistogram:
    """Documents by quality level, for each group whose lowest share is cut.

    Levels are whole numbers, so the threshold is the exact quantile of the scores, and merging
    histograms of any parts in any order gives the histogram of the whole. 512 KiB a group.
    """

    counts: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    def add(self, group: str, levels: Levels) -> None:
        """Count some documents' levels."""
        self._of(group)[:] += np.bincount(levels, minlength=SCORE_LEVELS)

    def merge(self, other: ScoreHistogram) -> None:
        """Add another part's counts."""
        for group, counts in other.counts.items():
            self._of(group)[:] += counts

    def thresholds(self, drop_fraction: float) -> dict[str, int]:
        """Group -> lowest level that is kept: at most `drop_fraction` of the group is below it.

        Documents of equal score stay together.
        """
        result = {}
        for group, counts in sorted(self.counts.items()):
            below = int(drop_fraction * int(counts.sum()))
            result[group] = int(np.searchsorted(np.cumsum(counts), below, side="right"))
        return result

    def _of(self, group: str) -> npt.NDArray[np.int64]:
        return self.counts.setdefault(group, np.zeros(SCORE_LEVELS, np.int64))

    def write(self, path: Path) -> None:
        """Leave the counts that are not zero in a file."""
        rows = [(group, level) for group, counts in sorted(self.counts.items()) for level in np.flatnonzero(counts)]
        write_table(
            path,
            pa.table(
                {
                    "group": pa.array([group for group, _ in rows], pa.string()),
                    "level": pa.array([int(level) for _, level in rows], pa.int32()),
                    "documents": pa.array([int(self.counts[group][level]) for group, level in rows], pa.int64()),
                }
            ),
        )

    @classmethod
    def read(cls, path: Path) -> ScoreHistogram:
        """The counts that `write` left; raises ArtifactCorrupted for a damaged file."""
        table = read_table(path)
        histogram = cls()
        groups = np.array(table.column("group").to_pylist(), object)
        levels, documents = (np.asarray(table.column(name)) for name in ("level", "documents"))
        for group in sorted(set(groups.tolist())):
            chosen = groups == group
            histogram._of(group)[levels[chosen]] = documents[chosen]
        return histogram


def merged(parts: Mapping[str, Path]) -> ScoreHistogram:
    """The histogram of a corpus from those of its shards."""
    total = ScoreHistogram()
    for path in parts.values():
        total.merge(ScoreHistogram.read(path))
    return total
