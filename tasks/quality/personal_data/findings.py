"""Where personal data is in a batch of texts: anchors in one pass, then patterns and validators around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from tasks.quality.personal_data.patterns import DETECTORS, KINDS, LOOK_AHEAD_BYTES, Detector
from tasks.text.batch import Positions, TextBatch
from tasks.text.scanning import Joined, ScanEngine, Scanner, joined_parts, scan_engine

_STEP_BYTES = 256
#: Anchors this close are searched in one go, what lies between them included.
_NEAR_BYTES = 64
#: (start, end, rank of the detector) in a block of bytes.
Hit = tuple[int, int, int]
_KIND_OF_DETECTOR = np.array([KINDS.index(detector.kind) for detector in DETECTORS], np.int8)


@dataclass(frozen=True)
class Findings:
    """Personal data of a batch, by text and place, without overlaps.

    texts: [findings] row of the text; starts, ends: [findings] bytes from the text's first byte;
    kinds: [findings] index into `KINDS`.
    """

    texts: Positions
    starts: Positions
    ends: Positions
    kinds: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def from_hits(cls, texts: Positions, hits: Sequence[Hit]) -> Findings:
        """Findings from hits of which each lies in the given text."""
        table = np.array(hits, np.int64).reshape(-1, 3)
        return cls(texts, table[:, 0], table[:, 1], _KIND_OF_DETECTOR[table[:, 2]])

    @classmethod
    def joined(cls, parts: Sequence[Findings]) -> Findings:
        """The findings of several parts, one after another."""
        if not parts:
            return cls.from_hits(np.zeros(0, np.int64), [])
        return cls(
            np.concatenate([part.texts for part in parts]),
            np.concatenate([part.starts for part in parts]),
            np.concatenate([part.ends for part in parts]),
            np.concatenate([part.kinds for part in parts]),
        )


def find_personal_data(batch: TextBatch) -> Findings:
    """All personal data of a batch; the same with Hyperscan and without."""
    if scan_engine() is ScanEngine.RE:
        return search_whole(batch)
    return Findings.joined([search_anchored(block, *_scanner().events(block.data)) for block in joined_parts(batch)])


@cache
def _scanner() -> Scanner:
    return Scanner([detector.anchor for detector in DETECTORS], [detector.caseless_anchor for detector in DETECTORS])


def search_whole(batch: TextBatch) -> Findings:
    """Findings by searching every text from end to end with `re`: what the quick way must equal."""
    parts = []
    for row in range(len(batch)):
        data = batch.buffer[batch.offsets[row] : batch.offsets[row + 1]].tobytes()
        hits = [
            (start, end, rank)
            for rank, detector in enumerate(DETECTORS)
            for start, end in _search(detector, data, 0, len(data))
        ]
        if hits:
            kept = _without_overlaps(hits)
            parts.append(Findings.from_hits(np.full(len(kept), row, np.int64), kept))
    return Findings.joined(parts)


def search_anchored(block: Joined, detectors: Positions, ends: Positions) -> Findings:
    """Findings in a block, given where anchors of which detectors end in it (sorted by end)."""
    hits: list[Hit] = []
    for rank in np.unique(detectors).tolist():
        detector = DETECTORS[rank]
        for low, high in _regions(block.data, ends[detectors == rank], detector.alphabet):
            hits.extend((start, end, rank) for start, end in _search(detector, block.data, low, high))
    kept = _without_overlaps(hits)
    rows = block.rows(np.array([start for start, _, _ in kept], np.int64))
    findings = Findings.from_hits(rows, kept)
    base = block.starts[rows - block.first]
    return Findings(rows, findings.starts - base, findings.ends - base, findings.kinds)


def _search(detector: Detector, data: bytes, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Accepted spans of matches that start in [low, high), from left to right."""
    place, limit = low, min(len(data), high + LOOK_AHEAD_BYTES)
    while (match := detector.pattern.search(data, place, limit)) is not None and match.start() < high:
        span = detector.accept(match)
        place = match.start() + 1 if span is None else max(span[1], match.start() + 1)
        if span is not None:
            yield span


def _regions(data: bytes, ends: Positions, alphabet: bytes) -> Iterator[tuple[int, int]]:
    """Parts of a block that hold whole runs of bytes of an alphabet: those that anchors end in, near ones together."""
    breaks = np.flatnonzero(np.diff(ends) > _NEAR_BYTES)
    firsts, lasts = ends[np.append(0, breaks + 1)].tolist(), ends[np.append(breaks, -1)].tolist()
    reached = -1
    for first, last in zip(firsts, lasts, strict=True):
        if last <= reached:
            continue
        low, reached = max(reached, _run_start(data, first, alphabet)), _run_end(data, last, alphabet)
        if reached > low:
            yield low, reached


def _run_start(data: bytes, place: int, alphabet: bytes) -> int:
    step = _STEP_BYTES
    while place > 0:
        piece = data[max(0, place - step) : place]
        kept = len(piece.rstrip(alphabet))
        if kept:
            return place - len(piece) + kept
        place, step = place - len(piece), 2 * step
    return 0


def _run_end(data: bytes, place: int, alphabet: bytes) -> int:
    step = _STEP_BYTES
    while place < len(data):
        piece = data[place : place + step]
        kept = len(piece.lstrip(alphabet))
        if kept:
            return place + len(piece) - kept
        place, step = place + len(piece), 2 * step
    return len(data)


def _without_overlaps(hits: list[Hit]) -> list[Hit]:
    """The surest of overlapping hits (the lower rank, then the longer, then the earlier), by place."""
    hits.sort()
    kept: list[Hit] = []
    group: list[Hit] = []
    reach = -1
    for hit in hits:
        if hit[0] >= reach:
            kept.extend(_choose(group))
            group = []
        group.append(hit)
        reach = max(reach, hit[1])
    kept.extend(_choose(group))
    return kept


def _choose(group: list[Hit]) -> list[Hit]:
    if len(group) < 2:
        return group
    chosen: list[Hit] = []
    for hit in sorted(group, key=lambda hit: (hit[2], hit[0] - hit[1], hit[0])):
        if all(hit[1] <= other[0] or other[1] <= hit[0] for other in chosen):
            chosen.append(hit)
    return sorted(chosen)
