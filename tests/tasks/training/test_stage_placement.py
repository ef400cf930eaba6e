"""Where stages begin in which data order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tasks.training import CurriculumStage, TrainingConfig, place_stages
from tasks.training.curriculum import begin_after, rows_drawn
from tasks.training.data_order import BatchNumbers, LongDocuments
from tests.tasks.training.conftest import MODEL
from tests.tasks.training.data_order.numbered_corpus import Corpus

BOOKS: dict[str, Any] = {"mixture": {"books": 1.0}}


def stage(name: str, **changes: Any) -> CurriculumStage:
    fields = {"context_tokens": 32, "tokens": 1000, "batch_tokens": 64, "learning_rate": 1e-3}
    return CurriculumStage(**({"name": name} | fields | changes))


def placed(*stages: CurriculumStage) -> list[tuple[str, str | None, int]]:
    return [(one.stage.name, one.data_order, one.first_row) for one in place_stages(stages)]


def test_a_stage_goes_on_after_the_last_whole_batch_of_the_one_it_continues() -> None:
    # 1000 tokens are 15 updates of 2 rows.
    stages = (
        stage("one"),
        stage("other"),
        stage("more", continues="one", batch_tokens=128),
        stage("yet", continues="more"),
    )
    assert placed(*stages) == [("one", None, 0), ("other", None, 0), ("more", "one", 30), ("yet", "one", 58)]


def test_repetitions_are_stages_that_continue_each_other() -> None:
    assert placed(stage("one", repeat=3), stage("more", continues="one")) == [
        ("one", None, 0),
        ("one-2", "one", 30),
        ("one-3", "one", 60),
        ("more", "one", 90),
    ]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((stage("b", continues="a"), stage("a")), "continues 'a', which is no stage before it; leave continues out"),
        ((stage("a"), stage("b", continues="b")), "use one of a, or leave"),
        ((stage("a"), stage("b", continues="a", context_tokens=64)), "its context_tokens is 64, not 32"),
        ((stage("a"), stage("b", continues="a", packing="best_fit")), "its packing is best_fit, not stream"),
        ((stage("a"), stage("b", continues="a", **BOOKS)), r"its mixture is \{'books': 1.0\}, not None"),
        ((stage("a"), stage("b", continues="a", long_documents=LongDocuments())), "its long_documents is .* not None"),
        (
            (stage("a"), stage("b", continues="a"), stage("c", continues="a")),
            "'b' and 'c' both continue 'a'.*let 'c' continue 'b'",
        ),
        ((stage("a", repeat=2), stage("b", continues="a"), stage("c", continues="a-2")), "let 'c' continue 'b'"),
        ((stage("a", repeat=2), stage("a-2")), r"stage names repeat \(a-2\)"),
    ],
)
def test_what_would_show_the_same_rows_or_others_is_refused(stages: tuple[CurriculumStage, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        place_stages(stages)


def test_repeating_or_continuing_a_stage_leaves_its_identity_alone() -> None:
    def identities(*stages: CurriculumStage) -> list[dict[str, Any]]:
        return [one.resolve(TrainingConfig(), MODEL).identity() for one in place_stages(stages)]

    once = identities(stage("one"))
    assert identities(stage("one", repeat=2))[:1] == once
    assert identities(stage("one"), stage("more", continues="one"))[:1] == once
    two, more = identities(stage("one", repeat=2))[1], identities(stage("one"), stage("one-2", continues="one"))[1]
    assert two == more, "a repetition is nothing but a stage that continues"
    assert identities(stage("one"), stage("one-2"))[1] != two


def test_a_resolved_stage_deals_out_its_own_rows() -> None:
    (_, second) = (one.resolve(TrainingConfig(), MODEL) for one in place_stages((stage("one", repeat=2),)))
    assert second.batch_plan.first_row(0, 0, 0) == 30
    assert second.batch_plan.first_row(3, 0, 0) == 36


def test_a_stage_and_the_one_that_continues_it_see_the_rows_of_one_stage() -> None:
    corpus = Corpus([5, 40, 9, 13, 80] * 60)
    for packing in ("stream", "best_fit"):
        fields: dict[str, Any] = {"packing": packing}
        stages = (stage("one", **fields), stage("more", continues="one", **fields))
        first, second = (one.resolve(TrainingConfig(), MODEL) for one in place_stages(stages))
        (whole,) = (
            one.resolve(TrainingConfig(), MODEL) for one in place_stages((stage("one", tokens=2000, **fields),))
        )
        expected = whole.sampler(corpus).batch(0, 60).tokens
        parts = [one.sampler(corpus).batch(one.batch_plan.batch_start(0), 30).tokens for one in (first, second)]
        assert torch.equal(torch.cat(parts), expected)


def test_skipped_batches_move_the_stages_that_continue() -> None:
    stages = (stage("one"), stage("other"), stage("more", continues="one"))
    one, other, more = (placed.resolve(TrainingConfig(), MODEL) for placed in place_stages(stages))
    after_one = rows_drawn({}, one, BatchNumbers((3, 7, 20)).drawn(one.steps))  # 15 updates: batches 0 to 16, less two
    assert after_one == {"one": 34}
    after_other = rows_drawn(after_one, other, other.steps)
    assert begin_after(after_one, other) == 0
    assert begin_after(after_other, more) == 34
    assert rows_drawn(after_other, more, more.steps) == {"one": 64, "other": 30}
    undisturbed = rows_drawn({}, one, one.steps)
    assert begin_after(undisturbed, more) == more.first_row == begin_after({}, more)


def test_shares_too_small_for_the_rounds_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"mixture and long_documents.share together .* 0.0005, below 1/1024"):
        stage("one", mixture={"books": 1.0, "mail": 99.0}, long_documents=LongDocuments(share=0.95))
    stage("one", mixture={"books": 1.0, "mail": 99.0}, long_documents=LongDocuments(share=1.0))
