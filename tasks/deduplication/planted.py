"""A test inside every run: near-duplicates of known similarity go through the same code as the documents.

Precision is near one by construction, since candidates are verified; recall is what LSH may lose.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.deduplication.clusters import verify
from tasks.deduplication.minhash import SketchSettings, band_keys, candidate_pairs

_WORD = re.compile(r"\w+")
_MINIMUM_WORDS = 50
_MAXIMUM_CHARACTERS = 20_000


@dataclass(frozen=True)
class PlantedResult:
    """How the planted pairs were decided. Without pairs on a side the figure is 1."""

    pairs: int
    true_pairs: int
    precision: float
    recall: float


def measure_planted(
    texts: Sequence[str], settings: SketchSettings, threshold: float, small_bucket: int, seed: int
) -> PlantedResult:
    """Make one edited copy of each text, run LSH and verification over all, and compare with the truth."""
    generator = random.Random(seed)  # noqa: S311 - repeatable on purpose
    usable = [text[:_MAXIMUM_CHARACTERS] for text in texts if len(text.split()) >= _MINIMUM_WORDS]
    copies = [edited_copy(text, generator) for text in usable]
    truth = np.array(
        [word_set_similarity(a, b, settings.ngram_words) >= threshold for a, b in zip(usable, copies, strict=True)]
    )
    everything = usable + copies
    candidates = candidate_pairs(band_keys(everything, settings), small_bucket)
    planted = candidates[candidates[:, 1] - candidates[:, 0] == len(usable)]
    verified = verify(planted, lambda rows: [everything[row] for row in rows], settings.ngram_words, threshold)
    decided = np.zeros(len(usable), np.bool_)
    decided[verified.pairs[:, 0]] = True
    right = int((decided & truth).sum())
    return PlantedResult(
        pairs=len(usable),
        true_pairs=int(truth.sum()),
        precision=right / int(decided.sum()) if decided.any() else 1.0,
        recall=right / int(truth.sum()) if truth.any() else 1.0,
    )


def edited_copy(text: str, generator: random.Random) -> str:
    """A copy with some words replaced, a block cut out or the end cut off, by chance up to half the text."""
    words = text.split(" ")
    amount = generator.random()
    kind = generator.choice(("replace", "cut", "truncate"))
    if kind == "replace":
        # One replaced word touches five shingles, so a tenth of the words is already a lot.
        for _ in range(max(1, int(0.08 * amount * len(words)))):
            words[generator.randrange(len(words))] = f"edit{generator.randrange(10**6)}"
    elif kind == "cut":
        size = int(0.45 * amount * len(words))
        start = generator.randrange(max(1, len(words) - size))
        del words[start : start + size]
    else:
        words = words[: len(words) - int(0.45 * amount * len(words))]
    return " ".join(words)


def word_set_similarity(first: str, second: str, ngram_words: int) -> float:
    """Jaccard similarity from Python sets of word tuples: independent of the code under test."""
    sets = []
    for text in (first, second):
        words = _WORD.findall(text.lower())
        grams = {tuple(words[i : i + ngram_words]) for i in range(len(words) - ngram_words + 1)}
        sets.append(grams or {tuple(words)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])
