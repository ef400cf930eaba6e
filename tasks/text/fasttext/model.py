"""Inference with a supervised fastText model over many texts at once (Joulin et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt

from infra.errors import ConfigurationError
from infra.storage.checksum import checksum_file
from tasks.text.batch import TextBatch
from tasks.text.engine import Engine, engine
from tasks.text.fasttext import compiled_features
from tasks.text.fasttext.features import new_cache, sum_features
from tasks.text.fasttext.format import LABEL_PREFIX, Loss, ModelFile, read_model
from tasks.text.fasttext.hierarchy import LOG_FLOOR, build_hierarchy
from tasks.text.fasttext.tables import build_tables, letters_view, whole_view

Doubles = npt.NDArray[np.float64]

#: Probabilities are given to this many places, beyond which processors differ.
_DECIMALS = 6
#: Their labels' scores stay in the processor's cache.
_TEXTS_AT_A_TIME = 256
#: fastText looks sigmoids up in a table of this many steps between -8 and 8.
_SIGMOID_STEPS, _LARGEST_SIGMOID = 512, 8.0


@dataclass(frozen=True)
class Predictions:
    """Of each text: the index of its likeliest label (-1 where the model has nothing to go by), its probability
    (rounded to 6 decimals), and how many words were seen. [texts] each."""

    label: npt.NDArray[np.int64]
    probability: Doubles
    words: npt.NDArray[np.int64]


class FastTextModel:
    """A supervised model. Gives what fastText gives for the text on one line, in float64 from exact sums.

    Results depend neither on the engine nor on what else is in a batch. May be used by several threads.
    """

    def __init__(self, file: ModelFile) -> None:
        self.labels = tuple(label.removeprefix(LABEL_PREFIX) for label in file.labels)
        self._loss = file.arguments.loss
        self._tables = build_tables(file)
        self._vectors = np.ascontiguousarray(file.outputs.dense().T, np.float64)
        if not np.isfinite(self._vectors).all():
            raise ValueError("its label vectors are not finite numbers")
        self._hierarchy = None
        if self._loss is Loss.HIERARCHICAL_SOFTMAX:
            self._hierarchy = build_hierarchy(file.label_counts)
            self._vectors = self._vectors[:, : len(self.labels) - 1]
        self._cache = new_cache(file.arguments.dimension)
        self._lock = Lock()

    @classmethod
    def load(cls, path: Path | str, checksum: str | None = None) -> FastTextModel:
        """Read a .bin or .ftz file; raises ConfigurationError if it is damaged or not the one of `checksum`."""
        path = Path(path)
        file = read_model(path)
        found = checksum_file(path) if checksum is not None else None
        if found != checksum:
            raise ConfigurationError(
                f"fastText model '{path}' has checksum {found}, expected {checksum}.",
                "restore the file, or set the checksum to the new one if the change is meant.",
            )
        try:
            return cls(file)
        except ValueError as error:
            raise ConfigurationError(
                f"'{path}' is not a usable fastText model: {error}.", "fetch or train it again."
            ) from error

    def predict(self, batch: TextBatch, *, letters_only: bool = False) -> Predictions:
        """The likeliest label of each text; with `letters_only`, all but letters and their marks separates words."""
        results = [self._likeliest(part, letters_only) for part in _slices(batch)]
        if not results:
            return Predictions(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))
        return Predictions(
            np.concatenate([result.label for result in results]),
            np.concatenate([result.probability for result in results]),
            np.concatenate([result.words for result in results]),
        )

    def probability_of(self, batch: TextBatch, label: str, *, letters_only: bool = False) -> Doubles:
        """[texts] probability of one label (0 where the model has nothing to go by), rounded to 6 decimals."""
        index = self.label_index(label)
        columns = [self._probabilities(part, letters_only)[0][:, index] for part in _slices(batch)]
        return np.concatenate(columns) if columns else np.zeros(0)

    def label_index(self, label: str) -> int:
        """Place of a label (with or without its prefix); raises ConfigurationError for an unknown one."""
        name = label.removeprefix(LABEL_PREFIX)
        if name not in self.labels:
            known = ", ".join(self.labels[:20]) + (", ..." if len(self.labels) > 20 else "")
            raise ConfigurationError(f"the fastText model has no label '{name}'.", f"choose one of: {known}.")
        return self.labels.index(name)

    def _likeliest(self, batch: TextBatch, letters_only: bool) -> Predictions:
        probabilities, counts, words = self._probabilities(batch, letters_only)
        label = np.where(counts > 0, probabilities.argmax(axis=1), -1)
        return Predictions(label, probabilities.max(axis=1), words)

    def _probabilities(
        self, batch: TextBatch, letters_only: bool
    ) -> tuple[Doubles, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """[texts, labels] probabilities, [texts] vectors added up and [texts] words."""
        view = letters_view() if letters_only else whole_view()
        with self._lock:
            found = sum_features(batch, view, self._tables, self._cache)
        hidden = np.ldexp(found.sums.astype(np.float64), -self._tables.exponent) / np.maximum(found.counts, 1)[:, None]
        probabilities: Doubles = np.minimum(self._of_scores(_dot_products(hidden, self._vectors)), 1.0)
        probabilities[found.counts == 0] = 0.0
        return np.round(probabilities, _DECIMALS), found.counts, found.words

    def _of_scores(self, scores: Doubles) -> Doubles:
        if self._hierarchy is not None:
            # Beyond 700, where exp() overflows, a sigmoid is 0 or 1 in float64 anyway.
            return self._hierarchy.probabilities(1.0 / (1.0 + np.exp(-np.clip(scores, -700.0, 700.0))))
        if self._loss is Loss.SOFTMAX:
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
            shares: Doubles = powers / powers.sum(axis=1, keepdims=True) + LOG_FLOOR
            return shares
        return _sigmoid_from_table(scores) + LOG_FLOOR


def _slices(batch: TextBatch) -> list[TextBatch]:
    starts = range(0, len(batch), _TEXTS_AT_A_TIME)
    return [batch.slice(start, min(start + _TEXTS_AT_A_TIME, len(batch))) for start in starts]


def _dot_products(hidden: Doubles, vectors: Doubles) -> Doubles:
    """[texts, labels]: a product whose sums run in one order everywhere, unlike BLAS's."""
    products = np.zeros((len(hidden), vectors.shape[1]))
    if engine() is Engine.NUMPY:
        for column in range(vectors.shape[0]):
            products += hidden[:, column, None] * vectors[column]
    else:
        compiled_features.dot_products(hidden, vectors, products)
    return products


def _sigmoid_from_table(scores: Doubles) -> Doubles:
    """fastText's sigmoid: exact at 512 points between -8 and 8, the next lower point's value between them."""
    width = 2 * _LARGEST_SIGMOID / _SIGMOID_STEPS
    steps = np.floor((np.clip(scores, -_LARGEST_SIGMOID, _LARGEST_SIGMOID) + _LARGEST_SIGMOID) / width)
    values = 1.0 / (1.0 + np.exp(_LARGEST_SIGMOID - steps * width))
    values[scores < -_LARGEST_SIGMOID] = 0.0
    values[scores > _LARGEST_SIGMOID] = 1.0
    return values
