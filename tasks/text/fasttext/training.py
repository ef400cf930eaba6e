"""Training of supervised models, as fastText does it (Joulin et al. 2016): softmax over the mean of feature
vectors, plain stochastic gradient descent, a rate that falls linearly to zero.

One thread, one fixed order of operations: the same texts and settings give the same file, byte for byte,
on any machine and by either engine. Two things differ from fastText: texts are visited in a new order each
epoch, and vectors of buckets that no training text uses are zero instead of random.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.text.batch import Positions, TextBatch
from tasks.text.engine import Engine, compiled, compiled_inline, engine
from tasks.text.fasttext.features import list_features
from tasks.text.fasttext.format import END_OF_TEXT, LABEL_PREFIX, Arguments, DenseMatrix, Floats, Loss, ModelFile
from tasks.text.fasttext.tables import index_features, whole_view
from tasks.text.hashing import GOLDEN_GAMMA, Hashes, mix

#: Words counted before those seen once are forgotten, which bounds memory (about 1 GB).
_MOST_WORDS = 5_000_000
_PART_BYTES = 1 << 23
_TERMS, _SQUARINGS = 12, 10


@dataclass(frozen=True)
class TrainingSettings:
    """dimension: numbers per vector; rate: of the first step; minimum_count: rarer words have no vector;
    word_ngrams: longest run of words that counts; buckets: vectors shared by all n-grams;
    longest_ngram: characters (0: none)."""

    dimension: int = 16
    epochs: int = 15
    rate: float = 0.5
    minimum_count: int = 2
    word_ngrams: int = 2
    buckets: int = 1 << 18
    shortest_ngram: int = 0
    longest_ngram: int = 0
    seed: int = 0


def train(
    batch: TextBatch, targets: npt.NDArray[np.int64], labels: tuple[str, ...], settings: TrainingSettings
) -> ModelFile:
    """Train on texts whose labels are `labels[targets]` ([texts]); labels are given without prefix."""
    arguments = Arguments(
        dimension=settings.dimension,
        epochs=settings.epochs,
        minimum_count=settings.minimum_count,
        word_ngrams=settings.word_ngrams,
        loss=Loss.SOFTMAX,
        buckets=settings.buckets if settings.word_ngrams > 1 or settings.longest_ngram > 0 else 0,
        shortest_ngram=settings.shortest_ngram,
        longest_ngram=settings.longest_ngram,
    )
    words, counts = _vocabulary(batch, settings.minimum_count)
    rows, first = _all_features(batch, arguments, words)
    inputs = _uniform(len(words) + arguments.buckets, settings)
    outputs = np.zeros((len(labels), settings.dimension), np.float32)
    run_epoch = _epoch_by_numpy if engine() is Engine.NUMPY else _epoch
    for epoch in range(settings.epochs):
        rates = settings.rate * (1.0 - epoch / settings.epochs), settings.rate * (1.0 - (epoch + 1) / settings.epochs)
        order = _order(len(batch), settings.seed, epoch)
        run_epoch(rows, first, targets.astype(np.int64), order, inputs, outputs, *rates)
    unused = np.ones(len(inputs), np.bool_)
    unused[rows] = False
    inputs[unused] = 0.0
    label_counts = np.bincount(targets, minlength=len(labels))
    by_count = np.argsort(-label_counts, kind="stable")
    return ModelFile(
        arguments,
        words,
        counts,
        [LABEL_PREFIX + labels[index] for index in by_count],
        label_counts[by_count].tolist(),
        sum(counts),
        None,
        DenseMatrix(inputs),
        DenseMatrix(outputs[by_count]),
    )


def _vocabulary(batch: TextBatch, minimum_count: int) -> tuple[list[bytes], list[int]]:
    """Words and their counts, frequent ones first; the end mark counts once per text."""
    counter: Counter[bytes] = Counter()
    for start, end in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
        counter.update(batch.buffer[start:end].tobytes().replace(b"\0", b" ").split())
        if len(counter) > _MOST_WORDS:
            counter = Counter({word: count for word, count in counter.items() if count > 1})
    counter[END_OF_TEXT] = max(len(batch), minimum_count)
    prefix = LABEL_PREFIX.encode()
    found = [(-n, word) for word, n in counter.items() if n >= minimum_count and not word.startswith(prefix)]
    found.sort()
    return [word for _, word in found], [-count for count, _ in found]


def _all_features(
    batch: TextBatch, arguments: Arguments, words: list[bytes]
) -> tuple[npt.NDArray[np.int32], Positions]:
    tables = index_features(arguments, words)
    found, sizes = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
    for _, part in batch.parts(_PART_BYTES):
        rows, first = list_features(part, whole_view(), tables)
        found.append(rows)
        sizes.append(np.diff(first))
    return np.concatenate(found), np.cumsum(np.concatenate(sizes))


def _random_bits(count: int, stream: int) -> Hashes:
    """[count] the numbers of a SplitMix64 generator: the same everywhere, forever."""
    start = mix(np.array([stream], np.uint64) * GOLDEN_GAMMA + GOLDEN_GAMMA)[0]
    return mix(np.arange(count, dtype=np.uint64) * GOLDEN_GAMMA + start)


def _order(count: int, seed: int, epoch: int) -> Positions:
    return np.argsort(_random_bits(count, (seed << 16) + epoch + 1), kind="stable")


def _uniform(rows: int, settings: TrainingSettings) -> Floats:
    """[rows, dimension] uniform between plus and minus 1 / dimension."""
    values = np.empty((rows, settings.dimension), np.float32)
    bits = _random_bits(values.size, settings.seed << 16)
    np.multiply((bits >> np.uint64(40)).astype(np.float32), 2.0**-23, out=values.reshape(-1))
    values -= np.float32(1.0)
    values /= np.float32(settings.dimension)
    return values


@compiled_inline
def _exponential(value: float) -> float:
    """exp() for values up to 0 by additions and products only, which processors agree on (relative error 1e-13)."""
    small = value / (1 << _SQUARINGS)
    result = 1.0 + 0.0 * small
    for term in range(_TERMS, 0, -1):
        result = 1.0 + small / term * result
    for _ in range(_SQUARINGS):
        result = result * result
    return result


@compiled
def _epoch(
    rows: npt.NDArray[np.int32],
    first: Positions,
    targets: Positions,
    order: Positions,
    inputs: Floats,
    outputs: Floats,
    rate: float,
    last_rate: float,
) -> None:
    """One pass over all texts in the given order, changing `inputs` and `outputs` in place."""
    labels, dimension = outputs.shape
    hidden, gradient = np.empty(dimension, np.float32), np.empty(dimension, np.float32)
    shares = np.empty(labels, np.float64)
    for step in range(len(order)):
        text = order[step]
        begin, end = first[text], first[text + 1]
        if begin == end:
            continue
        scale = np.float32(1.0 / (end - begin))
        hidden[:] = np.float32(0.0)
        for place in range(begin, end):
            vector = inputs[rows[place]]
            for column in range(dimension):
                hidden[column] += vector[column]
        for column in range(dimension):
            hidden[column] *= scale
        for label in range(labels):
            score = 0.0
            for column in range(dimension):
                score += np.float64(outputs[label, column]) * np.float64(hidden[column])
            shares[label] = score
        largest, total = shares.max(), 0.0
        for label in range(labels):
            shares[label] = _exponential(shares[label] - largest)
            total += shares[label]
        now = rate + (last_rate - rate) * (step / len(order))
        gradient[:] = np.float32(0.0)
        for label in range(labels):
            wanted = 1.0 if label == targets[text] else 0.0
            move = np.float32(now * (wanted - shares[label] / total))
            for column in range(dimension):
                gradient[column] += move * outputs[label, column]
                outputs[label, column] += move * hidden[column]
        for column in range(dimension):
            gradient[column] *= scale
        for place in range(begin, end):
            vector = inputs[rows[place]]
            for column in range(dimension):
                vector[column] += gradient[column]


def _epoch_by_numpy(
    rows: npt.NDArray[np.int32],
    first: Positions,
    targets: Positions,
    order: Positions,
    inputs: Floats,
    outputs: Floats,
    rate: float,
    last_rate: float,
) -> None:
    """`_epoch` in plain numpy. Running sums, unlike `sum`, add in the order of the compiled loops."""
    exponential = getattr(_exponential, "py_func", _exponential)
    for step, text in enumerate(order):
        features = rows[first[text] : first[text + 1]]
        if not len(features):
            continue
        scale = np.float32(1.0 / len(features))
        hidden = np.add.accumulate(inputs[features], axis=0)[-1] * scale
        products = outputs.astype(np.float64) * hidden.astype(np.float64)
        scores = np.add.accumulate(products, axis=1)[:, -1]
        shares = exponential(scores - scores.max())
        now = rate + (last_rate - rate) * (step / len(order))
        wanted = np.arange(len(outputs)) == targets[text]
        moves = (now * (wanted - shares / np.add.accumulate(shares)[-1])).astype(np.float32)
        gradient = np.add.accumulate(moves[:, None] * outputs, axis=0)[-1] * scale
        outputs += moves[:, None] * hidden
        np.add.at(inputs, features, gradient)
