"""Language identification with lid.176: our loops against fastText's own, on the same whole documents.

    python benchmarks/language_identification.py [--megabytes 220] [--peer-documents 6000]

Rates are CPU time of one core. *Cold* starts with an empty word cache (what a worker does), *warm* repeats
it. fasttext-predict gets strings with line ends replaced, prepared beforehand. A decision is the label, or
whether its probability is above 0.9; probabilities are compared for every document that fastText sees.
Tokens are bytes / 4.2.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import fasttext
import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.corpus import load_corpus
from tasks.quality.language import model_path
from tasks.text import TextBatch
from tasks.text.fasttext import FastTextModel, Predictions

BYTES_PER_TOKEN = 4.2
CONFIDENT = 0.9
ENGLISH = "en"
ResultT = TypeVar("ResultT")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=220)
    parser.add_argument("--peer-documents", type=int, default=6000)
    arguments = parser.parse_args()
    corpus = TextBatch.from_arrow(load_corpus(arguments.megabytes)["text"])
    shared = corpus.slice(0, min(arguments.peer_documents, len(corpus)))
    FastTextModel.load(model_path()).predict(corpus.slice(0, 1))  # compiles
    print(f"{len(corpus):,} documents, {megabytes(corpus):.0f} MB")
    print(f"of these for fastText: {len(shared):,} documents, {megabytes(shared):.0f} MB")
    views = (("letters only", True), ("everything", False))
    ours = [measure_ours(name, corpus, letters) for name, letters in views]
    model = FastTextModel.load(model_path())
    found, seconds = timed(lambda: model.predict(shared))
    rate = show("everything, fastText's documents, cold", shared, seconds)
    labels, probabilities, peer_rate = measure_peer(shared)
    print(f"ratio on the same documents and the same view: {rate / peer_rate:.1f}")
    compare(model, found, labels, probabilities)
    for name, result in ours:
        english = result.label == model.label_index(ENGLISH)
        confident = english & (result.probability > CONFIDENT)
        print(f"{name}: English {english.mean():.1%} of documents, with p > {CONFIDENT} {confident.mean():.1%}")


def megabytes(batch: TextBatch) -> float:
    """Size of all texts."""
    return len(batch.buffer) / 1e6


def timed(work: Callable[[], ResultT]) -> tuple[ResultT, float]:
    """What `work` returns, and its CPU seconds."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def show(name: str, batch: TextBatch, seconds: float) -> float:
    """Print and return MB/s."""
    rate = megabytes(batch) / seconds
    print(f"{name:45} {rate:7.1f} MB/s {rate / BYTES_PER_TOKEN:7.2f} Mtok/s")
    return rate


def measure_ours(name: str, corpus: TextBatch, letters_only: bool) -> tuple[str, Predictions]:
    """Twice over the corpus, beginning with an empty cache."""
    model = FastTextModel.load(model_path())
    for state in ("cold", "warm"):
        found, seconds = timed(lambda: model.predict(corpus, letters_only=letters_only))
        show(f"{name}, {state}", corpus, seconds)
    return name, found


def measure_peer(batch: TextBatch) -> tuple[list[str], npt.NDArray[np.float64], float]:
    """fastText's labels, probabilities and MB/s."""
    lines = [text.replace("\n", " ") + "\n" for text in batch.texts()]
    peer = fasttext.load_model(str(model_path())).f
    found, seconds = timed(lambda: [peer.predict(line, 1, 0.0, "strict")[0] for line in lines])
    rate = show("fasttext-predict", batch, seconds)
    return [label for _, label in found], np.array([probability for probability, _ in found]), rate


def compare(model: FastTextModel, ours: Predictions, labels: list[str], probabilities: npt.NDArray[np.float64]) -> None:
    """Print how many decisions differ, and by how much probabilities do."""
    other_label = sum(
        f"__label__{model.labels[index]}" != label for index, label in zip(ours.label, labels, strict=True)
    )
    other_side = int(((ours.probability > CONFIDENT) != (probabilities > CONFIDENT)).sum())
    difference = np.abs(ours.probability - np.minimum(probabilities, 1.0))
    print(
        f"of {len(labels):,} documents: {other_label} labels differ, {other_side} decisions p > {CONFIDENT} differ; "
        f"|dp| at most {difference.max():.1e}, median {np.median(difference):.1e}"
    )


if __name__ == "__main__":
    main()
