"""Counts of many texts at once, by the compiled loops or by numpy with the same results."""

from __future__ import annotations

import threading
from functools import cache

import numpy as np
import numpy.typing as npt

from tasks.quality import counts_by_numpy
from tasks.quality.character_kinds import character_kinds
from tasks.quality.compiled_counts import count_texts
from tasks.quality.counts import FUNCTION_BIT, Column, Counts
from tasks.text.batch import Bytes, TextBatch
from tasks.text.engine import Engine, engine
from tasks.text.hashing import Hashes

#: Gopher's stop words (Rae et al. 2021): a text without two of them is hardly running English.
GOPHER_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
#: Function words whose share tells running prose from lists and tables.
FUNCTION_WORDS = (
    "a about after all also an and any are as at be because been before but by can could did do does each for "
    "from had has have he her his how if in into is it its may more most no not of on one only or other our out "
    "over she should so some such than that the their them then there these they this those to two under until up "
    "was we were what when where which while who will with would you your"
)
_VOCABULARY_SIZE = 1024


def measure(batch: TextBatch, line_filters: npt.NDArray[np.uint8]) -> Counts:
    """[texts, columns] counts of a batch (see `Column`); `line_filters`: [texts] the `LineFilter` of each.

    Give it parts of some 0.5 MB (`TextBatch.parts`): its working memory grows with the longest text.
    """
    if engine() is Engine.NUMPY:
        return counts_by_numpy.count(batch, line_filters, *_vocabulary())
    counts = np.zeros((len(batch), len(Column)), np.int64)
    longest = int(batch.sizes.max(initial=0))
    workspace = _workspace(longest)
    vocabulary, meanings = _table()
    buffer = batch.buffer.view()
    buffer.flags.writeable = False  # numba compiles once for arrays that may be written, and once for others
    workspace.generation = count_texts(
        buffer,
        batch.offsets,
        line_filters,
        character_kinds(),
        vocabulary,
        meanings,
        workspace.codes,
        workspace.kinds,
        workspace.starts,
        workspace.ends,
        workspace.hashes,
        workspace.bits,
        workspace.slots,
        workspace.positions,
        workspace.generation,
        counts,
    )
    return counts


class _Workspace:
    """Arrays that the loops need for texts of up to `longest` bytes."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.generation = 1
        slots = 64
        while slots < 4 * longest:
            slots *= 2
        self.codes, self.kinds = np.empty(longest + 1, np.int32), np.empty(longest + 1, np.uint32)
        self.starts, self.ends = np.empty(longest + 1, np.int32), np.empty(longest + 1, np.int32)
        self.hashes, self.bits = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.uint8)
        self.slots = np.zeros((slots, 2), np.uint64)
        self.positions = np.empty((4, longest + 1), np.int64)


class _OfThread(threading.local):
    workspace: _Workspace | None = None


_OF_THREAD = _OfThread()
#: Generations are 32-bit; a text takes at most this many of them.
_LAST_GENERATION = (1 << 32) - (1 << 28)


def _workspace(longest: int) -> _Workspace:
    workspace = _OF_THREAD.workspace
    if workspace is None or workspace.longest < longest or workspace.generation > _LAST_GENERATION:
        workspace = _Workspace(max(longest + longest // 4, 1 << 16))
        _OF_THREAD.workspace = workspace
    return workspace


@cache
def _vocabulary() -> tuple[Hashes, Bytes]:
    """Sorted hashes of the stop and function words as they are written, and what each is (`FUNCTION_BIT`...)."""
    meanings: dict[str, int] = {}
    for word in FUNCTION_WORDS.split():
        for spelling in (word, word.capitalize(), word.upper()):
            meanings[spelling] = FUNCTION_BIT
    for number, word in enumerate(GOPHER_STOP_WORDS):
        meanings[word] = meanings.get(word, 0) | (number + 1)
    spellings = list(meanings)
    hashes = counts_by_numpy.token_hashes(spellings)
    order = np.argsort(hashes)
    return hashes[order], np.array([meanings[spellings[index]] for index in order], np.uint8)


@cache
def _table() -> tuple[Hashes, Bytes]:
    """The vocabulary as an open-addressing table."""
    keys, values = np.zeros(_VOCABULARY_SIZE, np.uint64), np.zeros(_VOCABULARY_SIZE, np.uint8)
    for key, meaning in zip(*_vocabulary(), strict=True):
        place = int(key) % _VOCABULARY_SIZE
        while keys[place]:
            place = (place + 1) % _VOCABULARY_SIZE
        keys[place], values[place] = key, meaning
    return keys, values
