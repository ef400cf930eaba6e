"""Many byte patterns in one pass over many texts, by Hyperscan (Wang et al. 2019; the Vectorscan fork in the wheel).

Texts are joined with a byte that UTF-8 never contains, so a pass is a few calls however short the
texts are; patterns must not match that byte. Where Hyperscan is missing (or `SAM2_TEXT_ENGINE=numpy`)
callers search every text with `re` instead, with the same results.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from tasks.text.batch import Positions, TextBatch
from tasks.text.engine import Engine, engine

LOGGER = logging.getLogger(__name__)
#: Between joined texts. No pattern may match it.
SEPARATOR = b"\xff"
#: Texts are joined up to this size. Small enough for the cache, large enough to forget the calls.
_PART_BYTES = 1 << 20
#: Hyperscan takes blocks of up to 4 GiB; longer texts are searched with `re`.
LONGEST_BLOCK_BYTES = (1 << 32) - 1
_PATTERN_BITS = 12


class ScanEngine(StrEnum):
    """What searches the texts."""

    HYPERSCAN = "hyperscan"
    RE = "re"


def scan_engine() -> ScanEngine:
    """Hyperscan where it is installed and the numpy engine is not asked for."""
    return ScanEngine.RE if engine() is Engine.NUMPY or not _installed() else ScanEngine.HYPERSCAN


@cache
def _installed() -> bool:
    installed = importlib.util.find_spec("hyperscan") is not None
    if not installed:
        LOGGER.warning("hyperscan is not installed: texts are searched with re, about ten times slower.")
    return installed


@dataclass(frozen=True)
class Joined:
    """Several texts as one block. data: bytes; starts: [texts] where each begins; first: row of the first one."""

    data: bytes
    starts: Positions
    first: int

    def rows(self, places: Positions) -> Positions:
        """Rows, in the whole batch, of the texts that places in the block belong to."""
        return np.searchsorted(self.starts, places, side="right") - 1 + self.first


def joined_parts(batch: TextBatch, maximum_bytes: int = _PART_BYTES) -> Iterator[Joined]:
    """The texts of a batch in blocks of about `maximum_bytes` (a longer text stands alone)."""
    for first, part in batch.parts(maximum_bytes):
        view, edges = part.buffer.data, part.offsets.tolist()
        data = SEPARATOR.join([view[start:end] for start, end in pairwise(edges)])
        yield Joined(data, part.offsets[:-1] + np.arange(len(part)), first)


class Scanner:
    """A set of patterns compiled for one pass. Compiled at the first call; shared by threads."""

    def __init__(self, patterns: Sequence[bytes], caseless: Sequence[bool]) -> None:
        if len(patterns) >= 1 << _PATTERN_BITS:
            raise ValueError(f"at most {(1 << _PATTERN_BITS) - 1} patterns, not {len(patterns)}")
        self._patterns, self._caseless = list(patterns), list(caseless)
        self._lock = threading.Lock()
        self._database: Any = None

    def events(self, data: bytes) -> tuple[Positions, Positions]:
        """Every (pattern, end) at which a pattern matches in the block: [events] indices and [events] ends, sorted."""
        if len(data) > LONGEST_BLOCK_BYTES:
            raise ValueError(f"a block of {len(data)} bytes is longer than {LONGEST_BLOCK_BYTES}")
        found = array("q")
        append = found.append

        def record(pattern: int, _start: int, end: int, _flags: int, _context: object) -> None:
            append(end << _PATTERN_BITS | pattern)

        with self._lock:
            self._compiled().scan(data, match_event_handler=record)
        packed = np.unique(np.frombuffer(found, np.int64)) if found else np.zeros(0, np.int64)
        return packed & ((1 << _PATTERN_BITS) - 1), packed >> _PATTERN_BITS

    def _compiled(self) -> Any:
        if self._database is None:
            import hyperscan

            database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
            database.compile(
                expressions=self._patterns,
                ids=list(range(len(self._patterns))),
                elements=len(self._patterns),
                flags=[hyperscan.HS_FLAG_CASELESS if caseless else 0 for caseless in self._caseless],
            )
            self._database = database
        return self._database
