"""How a curriculum is made shorter: all that is left shrinks alike, and no context is given up."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigurationError
from tasks.training import Cut, TrainingStageConfig, remaining_steps, shorten_curriculum, stop_at
from tasks.training.shortening import MINIMUM_STEPS
from tests.tasks.training.conftest import stage_config


def curriculum(*steps: int) -> list[TrainingStageConfig]:
    return [
        stage_config(
            name=f"stage-{index}", tokens=count * 256, context_tokens=32 * 2**index, warmup_steps=None, micro_batch=None
        )
        for index, count in enumerate(steps)
    ]


STAGES = curriculum(100, 200, 50)
DONE = {"stage-0": 100, "stage-1": 60}


def test_what_is_left_of_the_running_stage_and_of_later_ones_shrinks_alike() -> None:
    finished, running, later = shorten_curriculum(STAGES, DONE, 0.5)
    assert finished == STAGES[0]
    assert running.cuts == (Cut(after_step=60, steps=130),)
    assert later.cuts == (Cut(after_step=0, steps=25),)
    assert [stage.context_tokens for stage in (finished, running, later)] == [32, 64, 128]
    assert remaining_steps([finished, running, later], DONE) == {"stage-0": 0, "stage-1": 70, "stage-2": 25}


def test_shares_can_be_given_by_stage() -> None:
    _, running, later = shorten_curriculum(STAGES, DONE, {"stage-1": 0.25})
    assert (running.steps, later) == (60 + 35, STAGES[2])


@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), st.integers(0, 240), st.floats(0, 1), st.floats(0, 1))
def test_no_stage_is_lost_grows_or_falls_below_the_minimum(
    steps: list[int], made: int, keep: float, keep_again: float
) -> None:
    stages, done, left = curriculum(*steps), {}, made
    for stage in stages:
        done[stage.name] = min(stage.steps, left)
        left -= done[stage.name]
    once = shorten_curriculum(stages, done, keep)
    twice = shorten_curriculum(once, done, keep_again)
    for before, after in ((stages, once), (once, twice)):
        for old, new in zip(before, after, strict=True):
            remaining = old.steps - done[old.name]
            assert min(remaining, MINIMUM_STEPS) <= new.steps - done[old.name] <= remaining
            assert new == old if new.steps == old.steps else new.cuts[-1].after_step == done[old.name]
    assert shorten_curriculum(stages, done, 1.0) == stages


def test_stopping_cuts_the_running_stage_where_it_is_and_drops_the_rest() -> None:
    finished, running = stop_at(STAGES, DONE)
    assert finished == STAGES[0]
    assert running.cuts == (Cut(after_step=60, steps=60),) and running.steps == 60
    assert stop_at(STAGES, {"stage-0": 100}) == [STAGES[0]]
    again = shorten_curriculum(STAGES, DONE, 0.5)
    assert stop_at(again, DONE | {"stage-1": 90})[1].cuts == (
        Cut(after_step=60, steps=130),
        Cut(after_step=90, steps=90),
    )


@pytest.mark.parametrize(
    ("done", "keep", "message"),
    [
        ({"stage-9": 1}, 0.5, "stage-9, which is no stage"),
        ({"stage-0": 101}, 0.5, "cannot have made 101 updates of 100"),
        ({"stage-0": 10, "stage-1": 5}, 0.5, "while 'stage-0' is not finished"),
        (DONE, 1.5, "stage-0: 1.5"),
        (DONE, {"stage-1": -1}, "stage-1: -1"),
        (DONE, {"stage-7": 0.5}, "stage-7: 0.5"),
    ],
)
def test_what_cannot_be_is_refused(done: Mapping[str, int], keep: float | Mapping[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        shorten_curriculum(STAGES, done, keep)


def test_without_an_update_there_is_nothing_to_keep() -> None:
    with pytest.raises(ConfigurationError, match="before its first update"):
        stop_at(STAGES, {})
