"""Data order: seekable, complete, disjoint over ranks, weighted by source."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigurationError
from tasks.tokenization.token_shards import TokenDataset, TokenShard, write_token_shard
from tasks.training.data_order import MIXTURE_ROUND_ROWS, Sampler
from tasks.training.data_order.random_order import _stable_order, random_order
from tests.tasks.training.data_order.numbered_corpus import Corpus


def sampler(corpus: Corpus, context: int = 16, seed: int = 3, **options: Any) -> Sampler:
    return Sampler(corpus, context_tokens=context, seed=seed, stage="first", **options)


corpora = st.lists(st.integers(0, 70), min_size=1, max_size=30).filter(lambda lengths: sum(lengths) > 0)


@settings(deadline=None, max_examples=60)
@given(corpora, st.integers(2, 40), st.integers(0, 5))
def test_every_token_appears_once_in_each_epoch(lengths: list[int], context: int, seed: int) -> None:
    """Rows tile the stream: after whole epochs every token was seen equally often, whatever the context."""
    total = sum(lengths)
    rows = total  # `total` rows of `context` tokens are exactly `context` epochs
    batch = sampler(Corpus(lengths), context, seed).batch(0, rows)
    counts = Counter(batch.tokens.flatten().tolist())
    assert counts == dict.fromkeys(range(total), context)


@settings(deadline=None, max_examples=30)
@given(corpora, st.integers(2, 40))
def test_the_first_epochs_rows_hold_no_token_twice(lengths: list[int], context: int) -> None:
    rows = sum(lengths) // context
    tokens = sampler(Corpus(lengths), context).batch(0, rows).tokens.flatten().tolist() if rows else []
    # A row across the epoch's end may be drawn early; it holds a few of the next epoch's tokens.
    assert len(tokens) - len(set(tokens)) < context


@settings(deadline=None, max_examples=40)
@given(corpora, st.integers(2, 40), st.integers(0, 500))
def test_seeking_gives_what_reading_in_order_gives(lengths: list[int], context: int, row: int) -> None:
    in_order = sampler(Corpus(lengths), context)
    for earlier in range(max(0, row - 5), row):
        in_order.batch(earlier, 1)
    expected = in_order.batch(row, 3)
    found = sampler(Corpus(lengths), context).batch(row, 3)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.targets, expected.targets)
    assert torch.equal(found.document_ids, expected.document_ids)


@settings(deadline=None, max_examples=40)
@given(corpora, st.integers(2, 40), st.integers(0, 300))
def test_targets_follow_within_a_document_and_are_counted_without_reading(
    lengths: list[int], context: int, row: int
) -> None:
    made = sampler(Corpus(lengths), context)
    batch = made.batch(row, 4)
    assert made.target_count(row, 4) == batch.target_count
    ends = set((np.cumsum(lengths) - 1).tolist())
    for token, target in zip(batch.tokens.flatten().tolist(), batch.targets.flatten().tolist(), strict=True):
        assert target == (-100 if token in ends else token + 1)


def test_document_ids_change_exactly_where_another_document_begins() -> None:
    batch = sampler(Corpus([5, 9, 3, 30]), 24).batch(0, 4)
    for tokens, ids in zip(batch.tokens.tolist(), batch.document_ids.tolist(), strict=True):
        for t in range(23):
            follows = tokens[t + 1] == tokens[t] + 1 and tokens[t + 1] not in {0, 5, 14, 17}
            assert (ids[t + 1] == ids[t]) == follows


def test_order_depends_on_the_seed_the_stage_and_the_epoch() -> None:
    corpus = Corpus([7] * 40)
    one = sampler(corpus, 14).batch(0, 20).tokens
    assert not torch.equal(one, sampler(corpus, 14, seed=4).batch(0, 20).tokens)
    assert not torch.equal(one, Sampler(corpus, context_tokens=14, seed=3, stage="second").batch(0, 20).tokens)
    assert not torch.equal(one, sampler(corpus, 14).batch(20, 20).tokens)


def test_random_order_never_changes() -> None:
    """A checkpoint resumed under another numpy must see the same data."""
    assert random_order(8, "key", 1).tolist() == [7, 4, 5, 1, 2, 6, 3, 0]


@pytest.mark.parametrize(
    ("mixture", "digest"), [(None, "e17306c401cf54e9"), ({"books": 3, "mail": 1}, "9bb93529310b310e")]
)
def test_the_rows_of_a_stream_never_change(mixture: dict[str, float] | None, digest: str) -> None:
    """Runs begun with an earlier version go on with the same rows."""
    corpus = Corpus([(7 * k * k) % 61 for k in range(200)], [k % 3 for k in range(200)])
    batch = Sampler(corpus, context_tokens=32, seed=5, stage="first", mixture=mixture).batch(150, 64)
    parts = (batch.tokens, batch.targets, batch.document_ids)
    assert xxhash.xxh3_64_hexdigest(b"".join(part.numpy().astype("<i8").tobytes() for part in parts)) == digest


@pytest.mark.parametrize("count", [4096, 5000, 40_000])
def test_many_numbers_are_ordered_as_numpy_orders_them(count: int) -> None:
    keys = np.random.Philox(key=xxhash.xxh3_128_intdigest(b"key")).random_raw(count)
    assert np.array_equal(random_order(count, "key"), np.argsort(keys, kind="stable"))


def test_equal_keys_keep_their_order() -> None:
    keys = np.random.default_rng(0).integers(0, 50, size=9000).astype(np.uint64) << np.uint64(58)
    keys |= np.random.default_rng(1).integers(0, 3, size=9000).astype(np.uint64)
    expected = np.argsort(keys, kind="stable")
    assert np.array_equal(_stable_order(keys, np.empty(9000, np.int32), 1), expected)


def test_the_mixture_gives_each_source_its_share_of_every_round() -> None:
    corpus = Corpus([11] * 30, [0, 1, 2] * 10)
    mixed = sampler(corpus, mixture={"books": 3, "mail": 1, "code": 0})
    source_of = {token: number for number in range(30) for token in corpus.document(number).tolist()}
    rows = [source_of[row[0]] % 3 for row in mixed.batch(0, 2 * MIXTURE_ROUND_ROWS).tokens.tolist()]
    for start in (0, MIXTURE_ROUND_ROWS):
        counts = Counter(rows[start : start + MIXTURE_ROUND_ROWS])
        assert counts == {0: MIXTURE_ROUND_ROWS * 3 // 4, 1: MIXTURE_ROUND_ROWS // 4}


def test_the_mixture_seeks_and_reads_each_source_completely() -> None:
    corpus = Corpus([16] * 32, [0, 1] * 16)
    mixed = sampler(corpus, mixture={"books": 1, "mail": 1})
    everything = mixed.batch(0, MIXTURE_ROUND_ROWS)
    again = sampler(corpus, mixture={"books": 1, "mail": 1}).batch(700, 5)
    assert torch.equal(again.tokens, everything.tokens[700:705])
    counts = Counter(everything.tokens.flatten().tolist())
    assert set(counts.values()) == {MIXTURE_ROUND_ROWS // 32}


def test_an_unknown_source_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"'blogs'.*books, mail, code"):
        sampler(Corpus([20]), mixture={"blogs": 1})


@pytest.mark.parametrize("dtype", ["<u2", "<i4"])
def test_memory_mapped_shards_give_what_arrays_give(tmp_path: Path, dtype: str) -> None:
    corpus = Corpus([5, 0, 31, 8, 17, 2, 40, 9, 1, 12])
    prefixes = [tmp_path / "train-0", tmp_path / "train-1", tmp_path / "train-2"]
    for prefix, numbers in zip(prefixes, (range(4), range(4, 5), range(5, 10)), strict=True):
        documents = [corpus.document(number).tolist() for number in numbers]
        write_token_shard(prefix, documents, [0] * len(documents), [1] * len(documents), np.dtype(dtype))
    dataset = TokenDataset([TokenShard(prefix) for prefix in prefixes], corpus.source_names)
    found, expected = (Sampler(data, context_tokens=16, seed=3, stage="first") for data in (dataset, corpus))
    for name in ("tokens", "targets", "document_ids"):
        assert torch.equal(getattr(found.batch(3, 9), name), getattr(expected.batch(3, 9), name))
    assert found.reading() is None
