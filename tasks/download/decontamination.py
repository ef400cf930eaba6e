"""Decontamination: no document may share a run of 13 words with an evaluation item.

The rule of the GPT-3 paper (Brown et al. 2020, appendix C), without its removal of frequent runs:
a training document is worth less than a clean benchmark. Items shorter than 13 words have no such
run and cannot be recognised this way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from infra.storage.local import atomic_file
from tasks.quality.words import Hashes, batches, contains, hash_words, sum_by_text


def ngram_index(texts: Iterable[str], words: int) -> Hashes:
    """Sorted hashes of every run of `words` words in the evaluation texts."""
    items = list(texts)
    parts = [hash_words(items[part.start : part.stop]).ngrams(words)[0] for part in batches(items)]
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)


def shared_ngrams(texts: Sequence[str], index: Hashes, words: int) -> npt.NDArray[np.float64]:
    """[texts] how many runs of `words` words each text shares with the index."""
    counts = [np.zeros(0)]
    for part in batches(texts):
        hashes, offsets = hash_words(texts[part.start : part.stop]).ngrams(words)
        counts.append(sum_by_text(contains(index, hashes), offsets))
    return np.concatenate(counts)


def save_index(path: Path, index: Hashes) -> None:
    """Write the index where worker processes find it."""
    with atomic_file(path) as stream:
        np.save(stream, index)


def load_index(path: Path) -> Hashes:
    """Read an index written by `save_index`."""
    index: Hashes = np.load(path)
    return index
