"""Decontamination: no document may share a run of 13 words with an evaluation item.

The rule of the GPT-3 paper (Brown et al. 2020, appendix C), without its removal of frequent runs:
a training document is worth less than a clean benchmark. Items shorter than 13 words have no such
run and cannot be recognised this way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from infra.errors import ConfigurationError
from infra.storage.local import atomic_file
from tasks.download import compiled_decontamination
from tasks.text.batch import Positions, TextBatch
from tasks.text.engine import Engine, engine
from tasks.text.hashing import RUN_BASE, Hashes, contains
from tasks.text.words import Words, hash_words, sum_by_text

#: One bit a set in a 64-bit number.
_MOST_SETS = 64
_MARK_BITS_PER_RUN = 16


@dataclass(frozen=True)
class EvaluationIndex:
    """Every run of `words` words in the evaluation texts.

    hashes: [runs] sorted, without duplicates; members: [runs] bit `i` is set when set `names[i]` has the run.
    """

    names: tuple[str, ...]
    hashes: Hashes
    members: Hashes
    words: int

    @classmethod
    def of(cls, sets: Mapping[str, Iterable[str]], words: int) -> EvaluationIndex:
        """The index of named sets of texts; raises ConfigurationError for more than 64 sets."""
        if len(sets) > _MOST_SETS:
            raise ConfigurationError(
                f"decontamination.evaluation_sets: {len(sets)} sets are more than {_MOST_SETS}.", "join some of them."
            )
        parts = [np.unique(_runs(texts, words)) for texts in sets.values()]
        hashes = np.unique(np.concatenate([np.zeros(0, np.uint64), *parts]))
        members = np.zeros(len(hashes), np.uint64)
        for bit, part in enumerate(parts):
            members[np.searchsorted(hashes, part)] |= np.uint64(1 << bit)
        return cls(tuple(sets), hashes, members, words)

    def save(self, path: Path) -> None:
        """Write the index where worker processes find it."""
        names = np.array(self.names, np.str_)
        with atomic_file(path) as stream:
            np.savez(stream, names=names, hashes=self.hashes, members=self.members, words=np.int64(self.words))

    @classmethod
    def load(cls, path: Path) -> EvaluationIndex:
        """Read an index written by `save`."""
        with np.load(path, allow_pickle=False) as found:
            names = tuple(str(name) for name in found["names"])
            return cls(names, found["hashes"], found["members"], int(found["words"]))

    @cached_property
    def marks(self) -> Hashes:
        """Bitmap over the low bits of the hashes: a run whose bit is not set is not in the index."""
        slots = 1 << max(0, (len(self.hashes) * _MARK_BITS_PER_RUN // 64).bit_length())
        marks = np.zeros(slots, np.uint64)
        places = (self.hashes >> np.uint64(6)) & np.uint64(slots - 1)
        np.bitwise_or.at(marks, places, np.uint64(1) << (self.hashes & np.uint64(63)))
        return marks

    def shared(self, batch: TextBatch) -> SharedRuns:
        """What each text has in common with the evaluation sets."""
        counts, sets = np.zeros(len(batch), np.int64), np.zeros(len(batch), np.uint64)
        if len(self.hashes):
            for start, part in batch.parts():
                stop = start + len(part)
                self._count(hash_words(part), counts[start:stop], sets[start:stop])
        return SharedRuns(self.names, counts, sets)

    def _count(self, words: Words, counts: Positions, sets: Hashes) -> None:
        if engine() is Engine.NUMPY:
            runs, offsets = words.runs(self.words)
            found = contains(self.hashes, runs)
            counts[:] = sum_by_text(found, offsets)
            text_of_run = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[found]
            members = self.members[np.searchsorted(self.hashes, runs[found])]
            np.bitwise_or.at(sets, text_of_run, members)
            return
        oldest = np.uint64(pow(int(RUN_BASE), self.words, 1 << 64))
        compiled_decontamination.count_shared(
            words.hashes, words.first, self.words, oldest, self.marks, self.hashes, self.members, counts, sets
        )


@dataclass(frozen=True)
class SharedRuns:
    """counts: [texts] runs each text shares with the index; sets: [texts] bit `i`: shared with `names[i]`."""

    names: tuple[str, ...]
    counts: Positions
    sets: Hashes

    def texts_by_set(self) -> dict[str, int]:
        """How many texts share a run with each evaluation set that has such texts."""
        found = {name: int(np.count_nonzero(self.sets & np.uint64(1 << bit))) for bit, name in enumerate(self.names)}
        return {name: count for name, count in found.items() if count}


def _runs(texts: Iterable[str], words: int) -> Hashes:
    batch = TextBatch.from_texts(list(texts))
    parts = [hash_words(part).runs(words)[0] for _, part in batch.parts()]
    return np.concatenate([np.zeros(0, np.uint64), *parts])
