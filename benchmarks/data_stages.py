"""Speed of the data stages on real text, each against a simple peer in the same process, on one core.

    python benchmarks/data_stages.py [MEGABYTES]

The text is the docstrings and READMEs of the installed packages. Times are CPU seconds of this
process, so other programs on the machine change them little; tokens are ours (4,096 tokens).
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np

from tasks.deduplication.clusters import verify
from tasks.deduplication.minhash import SketchSettings, band_keys, candidate_pairs, shingle_sets
from tasks.download.decontamination import ngram_index, shared_ngrams
from tasks.download.sources import InstalledDocs
from tasks.quality import QualityConfig, SourceSettings
from tasks.quality.judgement import judge
from tasks.quality.language import identify
from tasks.quality.measures import measure
from tasks.quality.pii import apply_policies
from tasks.quality.words import batches, hash_words
from tasks.tokenization import TokenizationConfig
from tasks.tokenization.tokenizer import encode_batch, train_tokenizer

SKETCH = SketchSettings(ngram_words=5, permutations=128, bands=25, rows_per_band=5, seed=1)
WORD = re.compile(r"\w+")
#: Peers are slow: they are timed on this share of the text.
PEER_SHARE = 0.1


@dataclass(frozen=True)
class Timing:
    """Megabytes of text a CPU second."""

    name: str
    ours: float
    peer_name: str
    peer: float


def rate(work: Callable[[list[str]], object], texts: list[str]) -> float:
    """Best of two runs, MB/s."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    seconds = []
    for _ in range(2):
        start = time.process_time()
        work(texts)
        seconds.append(time.process_time() - start)
    return size / min(seconds)


def read_texts(megabytes: float) -> list[str]:
    """Installed documentation up to a size, cut so that no text dominates."""
    packages = ("scikit-learn", "scipy", "pandas", "networkx", "numpy", "sqlalchemy")
    texts: list[str] = []
    total = 0.0
    for record in InstalledDocs(name="docs", packages=packages).records(Path()):
        if record.defect is None and total < megabytes:
            texts.append(record.text)
            total += len(record.text.encode()) / 1e6
    return texts


def python_shingles(text: str) -> set[tuple[str, ...]]:
    words = WORD.findall(text.lower())
    return {tuple(words[start : start + 5]) for start in range(max(len(words) - 4, 1))}


def peer_measure(texts: Iterable[str]) -> None:
    """The same repetition figures with a string a word."""
    for text in texts:
        words = WORD.findall(text.lower())
        _ = sum(map(len, words)) / max(len(words), 1), sum(word in ("the", "and", "of") for word in words)
        for length in (2, 3, 4, 5, 10):
            seen: dict[tuple[str, ...], int] = {}
            for start in range(len(words) - length + 1):
                gram = tuple(words[start : start + length])
                seen[gram] = seen.get(gram, 0) + 1


def peer_minhash(texts: Iterable[str]) -> None:
    """MinHash as a textbook has it: one hash a shingle, 128 permutations of it."""
    generator = np.random.default_rng(1)
    factors, offsets = generator.integers(1, 1 << 31, (2, 128), dtype=np.uint64)
    for text in texts:
        hashes = [
            int.from_bytes(hashlib.sha1(" ".join(gram).encode(), usedforsecurity=False).digest()[:4], "little")
            for gram in python_shingles(text)
        ]
        column = np.array(hashes, np.uint64)[:, None]
        _ = ((column * factors + offsets) % np.uint64(4294967311)).min(axis=0)


def our_words(texts: list[str]) -> None:
    for part in batches(texts):
        hash_words(texts[part.start : part.stop])


def our_deduplication(texts: list[str]) -> None:
    candidates = candidate_pairs(band_keys(texts, SKETCH), 64)
    verify(candidates, lambda rows: [texts[row] for row in rows], 5, 0.8)


def peer_deduplication(texts: list[str]) -> None:
    """Brute force: every pair by Python sets. Quadratic, so on the small share it looks better than it is."""
    sets = [python_shingles(text) for text in texts]
    for index, first in enumerate(sets):
        for second in sets[:index]:
            if min(len(first), len(second)) >= 0.8 * max(len(first), len(second)):
                _ = len(first & second) / len(first | second)


def timings(texts: list[str]) -> list[Timing]:
    few = texts[: max(int(len(texts) * PEER_SHARE), 20)]
    settings = SourceSettings(rules="documentation", minimum_language_probability=0.5)
    config = QualityConfig(default_settings=settings)
    index = ngram_index(texts[:50], 13)
    tokenizer = train_tokenizer(texts[: len(texts) // 2], TokenizationConfig())
    each_measured = rate(lambda part: [measure(part[b.start : b.stop]) for b in batches(part)], texts)
    return [
        Timing("words hashed", rate(our_words, texts),
               "re.findall", rate(lambda part: [WORD.findall(text.lower()) for text in part], few)),
        Timing("decontamination, 13 words", rate(lambda part: shared_ngrams(part, index, 13), texts),
               "Python sets of tuples", rate(lambda part: [python_shingles(text) for text in part], few)),
        Timing("quality measures", each_measured, "Python dictionaries", rate(peer_measure, few)),
        Timing("language", rate(lambda part: [identify(text) for text in part], texts), "none", float("nan")),
        Timing("personal data", rate(lambda part: [apply_policies(t, config.pii.policies) for t in part], texts),
               "none", float("nan")),
        Timing("quality stage, all filters", rate(lambda part: list(judge(part, ["docs"] * len(part), config)), few),
               "none", float("nan")),
        Timing("MinHash signatures", rate(lambda part: band_keys(part, SKETCH), texts),
               "hashlib loop", rate(peer_minhash, few)),
        Timing("exact shingle sets", rate(lambda part: shingle_sets(part, 5), texts),
               "Python sets of tuples", rate(lambda part: [python_shingles(text) for text in part], few)),
        Timing("deduplication, end to end", rate(our_deduplication, texts),
               "all pairs, Python sets", rate(peer_deduplication, few)),
        Timing("encoding, encode_batch_fast", rate(lambda part: encode_batch(tokenizer, part), few),
               "encode one by one", rate(lambda part: [tokenizer.encode(text) for text in part], few)),
    ]  # fmt: skip


def main() -> None:
    """Print one line a comparison."""
    megabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
    texts = read_texts(megabytes)
    size = sum(len(text.encode()) for text in texts)
    tokenizer = train_tokenizer(texts[: len(texts) // 4], TokenizationConfig())
    sample = texts[: len(texts) // 10]
    tokens = sum(map(len, encode_batch(tokenizer, sample)))
    bytes_per_token = sum(len(text.encode()) for text in sample) / tokens
    print(f"{len(texts)} documents, {size / 1e6:.1f} MB, {bytes_per_token:.2f} bytes a token; one core, CPU time")
    print(f"{'what':32} {'MB/s':>8} {'Mtok/s':>8}   {'peer':36} {'MB/s':>8} {'ratio':>7}")
    for timing in timings(texts):
        ratio = f"{timing.ours / timing.peer:6.1f}x" if timing.peer == timing.peer else "      -"
        peer = f"{timing.peer:8.2f}" if timing.peer == timing.peer else "       -"
        million_tokens = timing.ours / bytes_per_token
        print(f"{timing.name:32} {timing.ours:8.2f} {million_tokens:8.2f}   {timing.peer_name:36} {peer} {ratio}")


if __name__ == "__main__":
    main()
