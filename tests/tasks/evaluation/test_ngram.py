"""The n-gram baselines: proper distributions, and the textbook's formulas on tiny text."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.evaluation import ngram
from tasks.evaluation.ngram import NgramModel


def fit(documents: list[list[int]], order: int, vocabulary_size: int) -> NgramModel:
    symbols = np.array([symbol for document in documents for symbol in document])
    lengths = np.array([len(document) for document in documents])
    return NgramModel.fit(symbols, lengths, order=order, vocabulary_size=vocabulary_size)


class SlowKneserNey:
    """Modified Kneser-Ney straight from Chen & Goodman, with dictionaries: the oracle."""

    def __init__(self, documents: list[list[int]], order: int, vocabulary_size: int) -> None:
        self.order, self.vocabulary_size = order, vocabulary_size
        padding = [vocabulary_size] * (order - 1)
        highest: Counter[tuple[int, ...]] = Counter()
        for document in documents:
            row = padding + document
            highest.update(tuple(row[end - order + 1 : end + 1]) for end in range(order - 1, len(row)))
        self.counts = {order: highest}
        for size in range(order - 1, 0, -1):
            self.counts[size] = Counter(gram[1:] for gram in self.counts[size + 1])
        self.discounts = {size: self.estimate_discounts(list(self.counts[size].values())) for size in self.counts}
        self.followers = {size: defaultdict(list) for size in self.counts}
        for size, counts in self.counts.items():
            for gram, count in counts.items():
                self.followers[size][gram[:-1]].append(count)

    @staticmethod
    def estimate_discounts(counts: list[int]) -> tuple[float, ...]:
        n1, n2, n3, n4 = (counts.count(value) for value in (1, 2, 3, 4))
        if not (n1 and n2 and n3):
            return (0.0, 0.5, 1.0, 1.5)
        y = n1 / (n1 + 2 * n2)
        raw = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        return (0.0, *(min(max(value, 0.05), limit) for value, limit in zip(raw, (1, 2, 3), strict=True)))

    def probability(self, context: tuple[int, ...], symbol: int) -> float:
        size = len(context) + 1
        lower = self.probability(context[1:], symbol) if context else 1 / self.vocabulary_size
        counts = self.followers[size].get(context)
        if counts is None:
            return lower
        discounts = self.discounts[size]
        count = self.counts[size][(*context, symbol)]
        removed = sum(discounts[min(value, 3)] for value in counts)
        return (count - discounts[min(count, 3)] + removed * lower) / sum(counts)


TEXTS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog", "mat", "the"]
DOCUMENTS = [[ord(letter) - 32 for letter in text] for text in TEXTS * 3 + ["on the dot the cat nodded"]]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("table_limit", [1 << 24, 0], ids=["tables", "sorts"])
def test_equals_the_formulas_computed_slowly(order: int, table_limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram, "_TABLE_LIMIT", table_limit)
    model, slow = fit(DOCUMENTS, order, 96), SlowKneserNey(DOCUMENTS, order, 96)
    unseen = [ord(letter) - 32 for letter in "the cow, sat!"]
    probabilities = np.exp(model.log_probabilities(np.array(unseen), np.array([len(unseen)])))
    padded = [96] * (order - 1) + unseen
    expected = [
        slow.probability(tuple(padded[place : place + order - 1]), symbol) for place, symbol in enumerate(unseen)
    ]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=30), min_size=1, max_size=6),
    context=st.lists(st.integers(0, 6), max_size=7),
    order=st.integers(1, 5),
)
def test_sums_to_one_after_any_context(documents: list[list[int]], context: list[int], order: int) -> None:
    distribution = fit(documents, order, 7).distribution(context)
    assert distribution.sum() == pytest.approx(1, abs=1e-9)
    assert distribution.min() > 0


def test_distribution_agrees_with_scoring_text() -> None:
    model = fit(DOCUMENTS, 5, 96)
    text = [ord(letter) - 32 for letter in "the cat"]
    scored = np.exp(model.log_probabilities(np.array(text), np.array([len(text)])))
    by_context = [model.distribution(text[:place])[symbol] for place, symbol in enumerate(text)]
    np.testing.assert_allclose(scored, by_context, rtol=1e-12)


def test_documents_do_not_leak_into_each_other() -> None:
    model = fit(DOCUMENTS, 3, 96)
    first, second = DOCUMENTS[0], DOCUMENTS[1]
    together = model.log_probabilities(np.array(first + second), np.array([len(first), len(second)]))
    alone = model.log_probabilities(np.array(second), np.array([len(second)]))
    np.testing.assert_array_equal(together[len(first) :], alone)


def test_longer_context_helps_on_text_like_the_training_text() -> None:
    symbols, lengths = np.array(DOCUMENTS[0] * 2), np.array([len(DOCUMENTS[0])] * 2)
    losses = [-fit(DOCUMENTS, order, 96).log_probabilities(symbols, lengths).mean() for order in (1, 2, 3)]
    assert losses[0] > losses[1] > losses[2]


def test_large_vocabulary_keys_do_not_overflow() -> None:
    documents = [[200_000, 5, 199_999, 5, 200_000, 5, 7]] * 2
    model, slow = fit(documents, 5, 200_001), SlowKneserNey(documents, 5, 200_001)
    probabilities = np.exp(model.log_probabilities(np.array(documents[0]), np.array([7])))
    assert probabilities[4] == pytest.approx(slow.probability((200_000, 5, 199_999, 5), 200_000))


def test_refuses_symbols_outside_the_vocabulary_and_empty_text() -> None:
    with pytest.raises(ValueError, match=r"0\.\.6"):
        fit([[7]], 2, 7)
    with pytest.raises(ValueError, match="lengths add up"):
        fit([[]], 2, 7)
    with pytest.raises(ValueError, match="order"):
        fit([[1]], 0, 7)
