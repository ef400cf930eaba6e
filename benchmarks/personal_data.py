"""Speed of the pass for personal data, profanity and sales phrases, and recall and precision on planted items.

    python benchmarks/personal_data.py [MEGABYTES]

Ours and the peers run in this process, on one core, on the same documents; times are CPU seconds of
this process. Peers: datatrove's PIIFormatter (e-mail and IPv4 only) and its C4 bad-word expression, built from
our list.
`MOBY_DICK` may name a directory with the chapters of Moby Dick as text files.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["ARROW_NUM_THREADS"] = "1"

import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.corpus import load_corpus
from tasks.quality.config import PiiKind, PiiPolicy, ProfanityConfig
from tasks.quality.personal_data import KINDS, find_personal_data
from tasks.quality.phrases import profane_words
from tasks.quality.scan import mask, scan
from tasks.text import TextBatch
from tasks.text.scanning import scan_engine
from tasks.text.words import hash_words
from tests.tasks.quality.held_out_personal_data import HELD_OUT
from tests.tasks.quality.planted_personal_data import DEVELOPMENT, PlantedText, planted_texts, score

BYTES_PER_TOKEN = 4.2
#: Peers are slow: they see this share of the documents.
PEER_SHARE = 0.05
MASK_ALL = dict.fromkeys(PiiKind, PiiPolicy.MASK)


def rate(work: Callable[[], object], size: float, times: int = 3) -> float:
    """Best of several runs, in megabytes a CPU second."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return size / min(seconds)


def line(name: str, speed: float, peer: float | None = None) -> None:
    """Print one row."""
    ratio = f"{speed / peer:8.1f}x" if peer else ""
    print(f"{name:46} {speed:9.1f} MB/s {speed / BYTES_PER_TOKEN:8.2f} Mtok/s {ratio}")


def speeds(batch: TextBatch) -> None:
    """MB/s of ours, by part, and of the peers."""
    size = len(batch.buffer) / 1e6
    share = batch.slice(0, max(1, int(len(batch) * PEER_SHARE)))
    texts, share_size = share.texts(), len(share.buffer) / 1e6
    formatter = rate(lambda: datatrove_masks(texts), share_size, 2)
    bad_words = re.compile(r"(?:\W|^)(" + "|".join(map(re.escape, profane_words())) + r")(?:\W|$)")
    c4 = rate(lambda: [bad_words.search(text.lower()) for text in texts], share_size, 2)
    scan(batch.slice(0, 10))
    result = scan(batch)
    whole = rate(lambda: mask(batch, scan(batch), MASK_ALL), size)
    print(f"{size:.0f} MB, {len(batch)} documents, {len(result.findings)} findings, {scan_engine()}")
    line("datatrove PIIFormatter (e-mail, IPv4)", formatter)
    line("C4 bad words by expression (datatrove)", c4)
    line("ours: personal data alone", rate(lambda: find_personal_data(batch), size), formatter)
    line("ours: personal data, profanity, phrases", rate(lambda: scan(batch), size), formatter)
    line("ours: the same with masking, end to end", whole, formatter)


def datatrove_masks(texts: Sequence[str]) -> list[str]:
    """What datatrove's formatter makes of the texts."""
    from datatrove.pipeline.formatters import PIIFormatter

    formatter = PIIFormatter()
    return [formatter.format(text) for text in texts]


def quality(name: str, texts: Sequence[PlantedText]) -> None:
    """Recall and precision of ours and of datatrove on planted texts."""
    batch = TextBatch.from_texts([text.text for text in texts])
    found = find_personal_data(batch)
    kinds = [KINDS[kind].value for kind in found.kinds]
    rows = list(zip(found.texts.tolist(), found.starts.tolist(), found.ends.tolist(), kinds, strict=True))
    recall, precision = score(rows, texts)
    items = sum(len(text.items) for text in texts)
    print(f"{name:24} {items} items: ours recall {recall:.4f} precision {precision:.4f}", end="; ")
    changed = datatrove_masks([text.text for text in texts])
    hits = [text.text != after for text, after in zip(texts, changed, strict=True)]
    right = sum(hit and bool(text.items) for hit, text in zip(hits, texts, strict=True))
    print(f"datatrove (by text) recall {right / items:.4f} precision {right / max(sum(hits), 1):.4f}")


def literature(directory: Path) -> None:
    """How many chapters the density rule removes."""
    batch = TextBatch.from_texts([path.read_text(encoding="utf-8") for path in sorted(directory.glob("*.txt"))])
    hits, words = scan(batch).profane_words, np.maximum(np.diff(hash_words(batch).first), 1)
    limits = ProfanityConfig()
    removed = (hits >= limits.minimum_hits) & (hits / words > limits.maximum_share)
    print(f"Moby Dick: {len(batch)} chapters, {words.sum()} words, {hits.sum()} hits, {removed.sum()} removed")


def main() -> None:
    """Print both tables."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    speeds(TextBatch.from_arrow(load_corpus(megabytes).column("text")))
    quality("development set", list(planted_texts(DEVELOPMENT, 1, 500)))
    quality("held-out set", list(planted_texts(HELD_OUT, 20261121, 1000)))
    if directory := os.environ.get("MOBY_DICK"):
        literature(Path(directory))


if __name__ == "__main__":
    main()
