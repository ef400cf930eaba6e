"""Best-fit packing: the textbook's bins, no document cut that fits, every token once an epoch."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.training.data_order import Sampler
from tasks.training.data_order.packing import PackedRows, best_fit_decreasing
from tests.tasks.training.data_order.numbered_corpus import Corpus

corpora = st.lists(st.integers(0, 70), min_size=1, max_size=40).filter(lambda lengths: sum(lengths) > 0)
contexts = st.integers(2, 40)


def sampler(corpus: Corpus, context: int, seed: int = 3, stage: str = "first") -> Sampler:
    return Sampler(corpus, context_tokens=context, seed=seed, stage=stage, packing="best_fit")


def rows_per_epoch(lengths: list[int], context: int) -> int:
    kept = np.array([length for length in lengths if length], np.int32)
    return PackedRows(np.arange(len(kept)), kept, context, "key").rows_per_epoch


def bins_by_bisection(sizes: list[int], capacity: int) -> list[int]:
    """The textbook's best-fit decreasing: room that is left in each bin, ascending."""
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        place = bisect_left(rooms, size)
        room = rooms.pop(place) if place < len(rooms) else capacity
        insort(rooms, room - size)
    return rooms


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 5000), max_size=300), st.sampled_from([64, 65, 4096, 5001]))
def test_items_fill_the_same_bins_as_the_textbooks(sizes: list[int], capacity: int) -> None:
    sizes = [size % (capacity - 1) + 1 for size in sizes]
    bin_of, bins = best_fit_decreasing(np.bincount(np.array(sizes, np.int64), minlength=capacity))
    filled = np.bincount(bin_of, weights=sorted(sizes, reverse=True), minlength=bins)
    assert sorted((capacity - filled).astype(int).tolist()) == bins_by_bisection(sizes, capacity)


@settings(deadline=None, max_examples=60)
@given(corpora, contexts, st.integers(0, 2))
def test_an_epoch_holds_every_token_once_and_padding(lengths: list[int], context: int, epoch: int) -> None:
    rows = rows_per_epoch(lengths, context)
    made = sampler(Corpus(lengths, first_token=1), context)
    counts = Counter(made.batch(epoch * rows, rows).tokens.flatten().tolist())
    padding = rows * context - sum(lengths)
    assert counts == Counter(dict.fromkeys(range(1, sum(lengths) + 1), 1)) + Counter({0: padding})


@settings(deadline=None, max_examples=60)
@given(corpora, contexts)
def test_no_document_that_fits_is_cut_and_the_others_are_cut_at_whole_rows(lengths: list[int], context: int) -> None:
    corpus = Corpus(lengths, first_token=1)
    tokens = sampler(corpus, context).batch(0, rows_per_epoch(lengths, context)).tokens.numpy()
    row_of, column_of = np.empty(1 + sum(lengths), int), np.empty(1 + sum(lengths), int)
    row_of[tokens], column_of[tokens] = np.indices(tokens.shape)
    for number, length in enumerate(lengths):
        for first in range(0, length, context):
            piece = corpus.document(number)[first : first + context]
            assert len(set(row_of[piece])) == 1
            assert np.array_equal(np.diff(column_of[piece]), np.ones(len(piece) - 1))


@settings(deadline=None, max_examples=60)
@given(corpora, contexts, st.integers(0, 200))
def test_targets_follow_padding_has_none_and_they_are_counted_without_reading(
    lengths: list[int], context: int, row: int
) -> None:
    made = sampler(Corpus(lengths, first_token=1), context)
    batch = made.batch(row, 6)
    assert made.target_count(row, 6) == batch.target_count
    ends = {0, *np.cumsum(lengths).tolist()}
    for token, target in zip(batch.tokens.flatten().tolist(), batch.targets.flatten().tolist(), strict=True):
        assert target == (-100 if token in ends else token + 1)


@settings(deadline=None, max_examples=60)
@given(corpora, contexts)
def test_documents_and_padding_have_ids_of_their_own(lengths: list[int], context: int) -> None:
    corpus = Corpus(lengths, first_token=1)
    batch = sampler(corpus, context).batch(0, rows_per_epoch(lengths, context))
    for tokens, ids in zip(batch.tokens.tolist(), batch.document_ids.tolist(), strict=True):
        # Nothing precedes padding; a row holds at most one piece of a document.
        documents = np.where(np.array(tokens) > 0, np.searchsorted(corpus.first, tokens, side="right"), 0)
        assert ids == np.concatenate(([0], np.cumsum(np.diff(documents) != 0))).tolist()


@settings(deadline=None, max_examples=30)
@given(corpora, contexts, st.integers(0, 300))
def test_seeking_gives_what_reading_in_order_gives(lengths: list[int], context: int, row: int) -> None:
    in_order = sampler(Corpus(lengths), context)
    parts = [in_order.batch(number, 1) for number in range(row, row + 4)]
    found = sampler(Corpus(lengths), context).batch(row, 4)
    for name in ("tokens", "targets", "document_ids"):
        assert torch.equal(getattr(found, name), torch.cat([getattr(part, name) for part in parts]))


def test_epochs_deal_documents_of_one_length_anew() -> None:
    lengths = [5, 11] * 50
    rows = rows_per_epoch(lengths, 16)
    assert rows == 50
    made = sampler(Corpus(lengths), 16)
    pairs = [{tuple(row) for row in made.batch(epoch * rows, rows).tokens.tolist()} for epoch in range(2)]
    assert len(pairs[0] & pairs[1]) < 10
    assert pairs[0] != {
        tuple(row) for row in sampler(Corpus(lengths), 16, stage="other").batch(0, rows).tokens.tolist()
    }


@pytest.mark.parametrize(("lengths", "context", "share"), [([10, 6] * 5, 16, 0.0), ([9] * 4, 16, 7 / 16)])
def test_the_padded_share_is_told(lengths: list[int], context: int, share: float) -> None:
    (group,) = sampler(Corpus(lengths), context).statistics()
    assert group.padded_share == pytest.approx(share)
