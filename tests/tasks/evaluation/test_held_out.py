"""Windows, bytes, choice of documents, bits per byte and position buckets."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from infra.errors import ConfigurationError
from tasks.evaluation.held_out import Corpus, choose_documents, windows_of
from tasks.evaluation.language_model import FloatArray, IntArray
from tasks.evaluation.perplexity import bits_per_byte, bucket_bounds, measure_perplexity
from tasks.evaluation.token_bytes import TokenBytes

TEXTS = ["Grüße, Welt! 🎉 def f(x):\n    return x", "plain words and numbers 123", "naïve — café"]


@settings(deadline=None)
@given(length=st.integers(1, 60), context=st.integers(2, 20), data=st.data())
def test_windows_score_every_token_once_with_its_overlap(length: int, context: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, context - 1))
    document = np.arange(1, length + 1)
    windows = windows_of(document, 0, context, overlap)
    scored = [token for window in windows for token in window.row[1 + window.unscored :]]
    assert scored == document.tolist()
    assert windows[0].row[0] == 0
    assert all(len(window.row) <= context + 1 for window in windows)
    assert all(window.unscored == overlap for window in windows[1:])


class UniformModel:
    """Every token costs ln(vocabulary) nats."""

    def __init__(self, vocabulary: int) -> None:
        self.cost = math.log(vocabulary)

    def token_nats(self, rows: Sequence[IntArray]) -> list[FloatArray]:
        return [np.full(len(row) - 1, self.cost) for row in rows]

    def candidate_nats(self, contexts: IntArray, candidates: Sequence[Sequence[Sequence[int]]]) -> FloatArray:
        return np.array([[len(tokens) * self.cost for tokens in row] for row in candidates])


def test_bits_per_byte_by_hand() -> None:
    assert bits_per_byte(math.log(2) * 30, 10) == pytest.approx(3.0)
    # Two documents of 3 and 5 tokens from 16 equally likely ones: 4 bits a token, 8 tokens, 20 bytes.
    corpus = Corpus(np.arange(8), np.array([3, 5]))
    result = measure_perplexity(UniformModel(16), corpus, text_bytes=20, separator=15, context=4, overlap=1)
    assert result["bits_per_byte"] == pytest.approx(8 * 4 / 20)
    assert result["perplexity"] == pytest.approx(16)
    assert result["tokens"] == 8
    assert sum(row["tokens"] for row in result["by_position"]) == 8


def test_position_buckets_cover_the_context_without_gaps() -> None:
    bounds = bucket_bounds(100)
    assert bounds == [(1, 16), (17, 32), (33, 64), (65, 100)]


def train_tokenizer(path: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.save(str(path))
    return tokenizer


def test_bytes_are_those_of_the_text_cut_anywhere(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(tmp_path / "tokenizer.json")
    table = TokenBytes.from_file(tmp_path / "tokenizer.json")
    encoded = [tokenizer.encode(text).ids for text in TEXTS]
    corpus = Corpus(np.concatenate(encoded), np.array([len(ids) for ids in encoded]))
    text, sizes = corpus.to_bytes(table)
    assert text.tobytes() == "".join(TEXTS).encode()
    assert sizes.tolist() == [len(part.encode()) for part in TEXTS]
    cut, _ = corpus.take([0], longest=3).to_bytes(table)
    assert TEXTS[0].encode().startswith(cut.tobytes())
    assert table.expand(np.array([0])).size == 0  # the separator has no text


def test_other_tokenizers_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"type": "Unigram", "vocab": []}, "decoder": {"type": "Metaspace"}}))
    with pytest.raises(ConfigurationError, match=r"tokenizer\.json.*byte-level"):
        TokenBytes.from_file(path)


def test_chosen_documents_are_deterministic_and_within_the_budget() -> None:
    lengths = np.array([5, 50, 7, 3, 20, 9])
    corpus = Corpus(np.arange(lengths.sum()), lengths)
    first, again = (choose_documents(corpus, 40, 15, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert int(first.lengths.sum()) == len(first.tokens) == 40
    assert first.lengths.max() <= 15
    everything = choose_documents(corpus, 10_000, 10_000, seed=3)
    assert sorted(everything.tokens.tolist()) == list(range(94))
