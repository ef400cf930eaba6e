"""The learning rate is a pure function of the step."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.training import Cut, TrainingStageConfig
from tasks.training.schedule import agreed_updates, learning_rate_at, planned_updates
from tests.tasks.training.conftest import stage_config


def rates(steps: int = 100, **changes: object) -> list[float]:
    fields: dict = {"warmup_steps": 10, "schedule": "cosine", "peak": 1.0, "final": 0.1, "decay_fraction": 0.2}
    return [learning_rate_at(step, steps=steps, **(fields | changes)) for step in range(steps)]


def test_warmup_rises_linearly_to_the_peak() -> None:
    assert rates()[:10] == pytest.approx([0.1 * n for n in range(1, 11)])


def test_cosine_falls_from_the_peak_to_the_final_rate() -> None:
    cosine = rates()
    assert cosine[10] == 1.0
    assert cosine[-1] == pytest.approx(0.1)
    assert cosine[10:] == sorted(cosine[10:], reverse=True)
    assert cosine[10 + 45] == pytest.approx(0.55, abs=0.02)


def test_warmup_stable_decay_falls_only_at_the_end() -> None:
    values = rates(schedule="warmup_stable_decay")
    assert set(values[9:80]) == {1.0}
    assert values[81] < 1.0
    assert values[-1] == pytest.approx(0.1)


def test_constant_stays_at_the_peak() -> None:
    assert set(rates(schedule="constant")[10:]) == {1.0}


def test_a_single_step_and_no_warmup_are_possible() -> None:
    assert rates(steps=1, warmup_steps=0) == [0.1]
    assert rates(steps=2, warmup_steps=0) == [1.0, 0.1]


def test_the_stage_derives_its_warmup_from_a_share() -> None:
    config = stage_config(warmup_steps=None, warmup_fraction=0.25)
    assert config.steps == 12
    assert config.learning_rate_at(2) == pytest.approx(3e-3)
    assert config.learning_rate_at(0) == pytest.approx(1e-3)


ROUNDING = 1e-14


@st.composite
def cut_stages(draw: st.DrawFn) -> tuple[TrainingStageConfig, TrainingStageConfig]:
    """(the plan, the plan after up to three cuts)"""
    steps = draw(st.integers(1, 120))
    plan = stage_config(
        tokens=steps * 256,
        warmup_steps=draw(st.integers(0, steps)),
        schedule=draw(st.sampled_from(["cosine", "warmup_stable_decay", "constant"])),
        final_learning_rate=draw(st.sampled_from([0.0, 3e-4, 3e-3])),
        decay_fraction=draw(st.floats(0.01, 1)),
    )
    cuts: list[Cut] = []
    made = 0
    for _ in range(draw(st.integers(1, 3))):
        made = draw(st.integers(made, steps))
        steps = draw(st.integers(max(1, made), steps))
        cuts.append(Cut(after_step=made, steps=steps))
    return plan, stage_config(**{**plan.model_dump(), "cuts": cuts})


def plan_changes(plan: TrainingStageConfig, start: float, end: float) -> float:
    """What the planned rate changes by, up and down, in the whole updates that hold this stretch."""
    points = [plan.learning_rate_at(step) for step in range(max(0, math.floor(start)), math.ceil(end) + 1)]
    return sum(abs(after - before) for before, after in pairwise(points))


@given(cut_stages())
def test_a_cut_changes_nothing_before_it_and_compresses_what_follows(
    stages: tuple[TrainingStageConfig, TrainingStageConfig],
) -> None:
    plan, short = stages
    found = [short.learning_rate_at(step) for step in range(short.steps)]
    planned = [plan.learning_rate_at(step) for step in range(plan.steps)]
    first = short.cuts[0].after_step
    assert found[:first] == planned[:first]
    assert all(0 <= rate <= plan.learning_rate * (1 + ROUNDING) for rate in found)
    places = [planned_updates(step + 1, plan.steps, short.cuts) - 1 for step in range(short.steps)]
    assert all(after > before for before, after in pairwise(places))
    for step in range(1, short.steps):
        # Continuous, also at a cut, and monotone where the plan is.
        assert abs(found[step] - found[step - 1]) <= plan_changes(plan, places[step - 1], places[step]) + ROUNDING
        if places[step] <= plan.warmup_steps - 1:  # type: ignore[operator]
            assert found[step] >= found[step - 1] - ROUNDING
        if places[step - 1] >= plan.warmup_steps - 1:  # type: ignore[operator]
            assert found[step] <= found[step - 1] + ROUNDING
    if short.cuts[-1].steps > short.cuts[-1].after_step:
        assert places[-1] == plan.steps - 1
        assert found[-1] == planned[-1], "it ends where the plan ends"


@given(st.integers(0, 40), st.integers(1, 20), st.integers(1, 6))
def test_compression_by_a_whole_number_takes_every_nth_planned_rate(made: int, kept: int, factor: int) -> None:
    plan = stage_config(tokens=(made + kept * factor) * 256, warmup_steps=0)
    short = stage_config(**{**plan.model_dump(), "cuts": [Cut(after_step=made, steps=made + kept)]})
    expected = [plan.learning_rate_at(made - 1 + factor * number) for number in range(1, kept + 1)]
    assert [short.learning_rate_at(made + number) for number in range(kept)] == pytest.approx(expected, abs=1e-15)


def test_a_warmup_is_gone_on_with_and_never_made_again() -> None:
    short = stage_config(tokens=40 * 256, warmup_steps=20, cuts=[Cut(after_step=10, steps=25)])
    found = [short.learning_rate_at(step) for step in range(25)]
    assert found[:10] == pytest.approx([3e-3 * number / 20 for number in range(1, 11)])
    assert found[10:15] == pytest.approx([3e-3 * number / 20 for number in (12, 14, 16, 18, 20)])
    assert found[14:] == sorted(found[14:], reverse=True) and found[-1] == 3e-4


@pytest.mark.parametrize(
    ("one", "other", "updates"),
    [
        ([], [], None),
        ([], [(12, 16)], 12),
        ([(12, 16)], [(12, 16), (14, 15)], 14),
        ([(12, 16)], [(9, 13), (10, 11)], 9),
        ([(12, 16)], [(12, 16)], None),
    ],
)
def test_schedules_agree_until_the_first_cut_that_differs(
    one: list[tuple[int, int]], other: list[tuple[int, int]], updates: int | None
) -> None:
    first, second = ([Cut(after_step=made, steps=steps) for made, steps in cuts] for cuts in (one, other))
    assert agreed_updates(first, second) == agreed_updates(second, first) == updates
