"""Rows from long documents: exact shares, disjoint groups, and what happens where there are none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.errors import ConfigurationError
from tasks.training.data_order import MIXTURE_ROUND_ROWS, LongDocuments, Sampler
from tests.tasks.training.data_order.numbered_corpus import Corpus

LENGTHS = [40, 4, 8, 12, 64, 6, 10, 30, 7] * 4
SOURCES = [0, 0, 0, 1, 1, 1, 0, 0, 1] * 4


def sampler(corpus: Corpus, **options: Any) -> Sampler:
    return Sampler(corpus, context_tokens=16, seed=3, stage="first", **options)


@pytest.mark.parametrize("packing", ["stream", "best_fit"])
@pytest.mark.parametrize("mixture", [None, {"books": 3, "mail": 1}])
def test_every_round_has_the_share_of_long_rows(packing: str, mixture: dict[str, float] | None) -> None:
    corpus = Corpus(LENGTHS, SOURCES, first_token=1)
    long = LongDocuments(minimum_tokens=20, share=0.75)
    made = sampler(corpus, mixture=mixture, packing=packing, long_documents=long)
    length_of = {token: int(corpus.lengths[n]) for n in range(len(LENGTHS)) for token in corpus.document(n)}
    for first in (0, MIXTURE_ROUND_ROWS):
        tokens = made.batch(first, MIXTURE_ROUND_ROWS).tokens.tolist()
        lengths = [{length_of[token] for token in row if token} for row in tokens]
        assert sum(min(row) >= 20 for row in lengths) == MIXTURE_ROUND_ROWS * 3 // 4
        assert sum(max(row) < 20 for row in lengths) == MIXTURE_ROUND_ROWS // 4


def test_statistics_tell_what_qualifies() -> None:
    made = sampler(
        Corpus(LENGTHS, SOURCES), mixture={"books": 3, "mail": 1}, long_documents=LongDocuments(minimum_tokens=20)
    )
    rows = [(one.source, one.kind, one.documents, one.tokens) for one in made.statistics()]
    assert rows == [
        ("books", "long", 8, 280),
        ("books", "short", 12, 88),
        ("mail", "long", 4, 256),
        ("mail", "short", 12, 100),
    ]
    assert [one.rows_share for one in made.statistics()] == pytest.approx([0.525, 0.225, 0.175, 0.075], abs=1e-3)
    books = made.statistics()[0]
    assert books.epochs(MIXTURE_ROUND_ROWS, 16) == pytest.approx(books.rows_share * MIXTURE_ROUND_ROWS * 16 / 280)


def test_the_table_is_plain_data_about_a_stages_rows() -> None:
    made = sampler(Corpus([8, 24, 5]), packing="best_fit", long_documents=LongDocuments(minimum_tokens=20, share=0.75))
    assert json.loads(json.dumps(made.table(64))) == [
        {"source": "all", "documents": "long", "number": 1, "tokens": 24}
        | {"share of rows": 0.75, "epochs": 24.0, "padding": 0.25},
        {"source": "all", "documents": "short", "number": 2, "tokens": 13}
        | {"share of rows": 0.25, "epochs": 16.0, "padding": 0.1875},
    ]


def test_half_a_row_is_long_when_nothing_else_is_said() -> None:
    (long, short) = sampler(Corpus([8, 7, 9, 3]), long_documents=LongDocuments()).statistics()
    assert (long.kind, long.documents, short.documents) == ("long", 2, 2)


def test_a_source_without_long_documents_is_an_error_or_counted() -> None:
    corpus = Corpus(LENGTHS, SOURCES)
    options = {"mixture": {"books": 1, "mail": 1}}
    asked = LongDocuments(minimum_tokens=50)
    with pytest.raises(
        ConfigurationError, match=r"'books' has no document of 50 tokens or more \(the longest has 40\)"
    ):
        sampler(corpus, **options, long_documents=asked)
    with pytest.raises(ConfigurationError, match="the training data has no document of 65"):
        sampler(corpus, long_documents=LongDocuments(minimum_tokens=65))
    allowed = asked.model_copy(update={"when_missing": "any"})
    groups = sampler(corpus, **options, long_documents=allowed).statistics()
    assert [(one.source, one.kind) for one in groups] == [("books", "all"), ("mail", "long"), ("mail", "short")]
    assert groups[0].rows_share == 0.5


def test_only_long_documents_need_no_others() -> None:
    corpus = Corpus([20, 30, 40])
    (group,) = sampler(corpus, long_documents=LongDocuments(share=0.7)).statistics()
    assert (group.kind, group.rows_share) == ("long", 1.0)
    (group,) = sampler(Corpus([20, 3]), long_documents=LongDocuments(share=1)).statistics()
    assert (group.kind, group.tokens) == ("long", 20)


def test_no_token_is_seen_twice_before_its_group_is_through() -> None:
    corpus = Corpus([16, 32] * 100 + [4] * 400)
    made = sampler(corpus, long_documents=LongDocuments(minimum_tokens=10, share=0.75), packing="best_fit")
    tokens = made.batch(0, 300).tokens.flatten().tolist()
    assert len(set(tokens)) == len(tokens)
