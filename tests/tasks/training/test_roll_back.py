"""Which losses are bad, and what follows from going back."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.training.policy import RollBackPolicy
from tasks.training.roll_back import BadStep, RollBack, first_changed_update, judge_loss, rate_share, skipped_batches

POLICY = RollBackPolicy(window=8, rate_recovery_steps=10)
CALM = [3.0, 3.1, 2.9, 3.05, 2.95, 3.0, 3.02, 2.98]


def at(step: int, from_step: int | None = None, batch: int | None = None) -> RollBack:
    return RollBack(step, step if batch is None else batch, step if from_step is None else from_step, "loss spike", 9.0)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_bad_from_the_first_update(loss: float) -> None:
    with pytest.raises(BadStep, match="not a number"):
        judge_loss(loss, [], POLICY)


@pytest.mark.parametrize(("loss", "bad"), [(3.9, False), (4.1, True), (2.0, False), (30.0, True)])
def test_a_spike_stands_out_by_deviations_and_by_nats(loss: float, bad: bool) -> None:
    if not bad:
        judge_loss(loss, CALM, POLICY)
        return
    with pytest.raises(BadStep, match="spike"):
        judge_loss(loss, CALM, POLICY)


def test_a_noisy_run_is_given_more_room() -> None:
    noisy = [3.0, 4.0, 2.5, 3.6, 2.2, 4.1, 2.9, 3.5]
    judge_loss(5.0, noisy, POLICY)


def test_too_few_losses_are_no_measure() -> None:
    judge_loss(50.0, CALM[:3], POLICY)


def test_old_losses_do_not_count() -> None:
    with pytest.raises(BadStep):
        judge_loss(5.0, [9.0] * 100 + CALM, POLICY)


def test_the_offending_batch_is_skipped_and_as_many_before_it_as_the_policy_says() -> None:
    wide = POLICY.model_copy(update={"skip_before": 2})
    assert skipped_batches([at(5), at(9, batch=12)], POLICY) == (5, 12)
    assert skipped_batches([at(1), at(9)], wide) == (0, 1, 7, 8, 9)


def test_the_rate_falls_with_the_changed_updates_and_climbs_back() -> None:
    shares = [rate_share(step, [at(25, 20)], POLICY) for step in (19, 20, 25, 29, 30, 100)]
    assert shares == pytest.approx([1.0, 0.5, 0.75, 0.95, 1.0, 1.0])
    assert rate_share(20, [at(25, 20), at(26, 20)], POLICY) == pytest.approx(0.25)
    assert rate_share(7, [], POLICY) == 1.0


def test_the_same_update_bad_again_with_another_batch_lowers_the_rate_earlier() -> None:
    assert first_changed_update(25, [], POLICY) == 25
    assert first_changed_update(25, [at(25)], POLICY) == 17
    assert first_changed_update(25, [at(25), at(25, 17)], POLICY) == 9
    assert first_changed_update(26, [at(25)], POLICY) == 26
    assert first_changed_update(3, [at(3)], POLICY) == 0
    assert first_changed_update(9, [], POLICY.model_copy(update={"skip_before": 2})) == 7


@given(value=st.floats(allow_nan=True, allow_infinity=True))
def test_a_roll_back_survives_json(value: float) -> None:
    roll_back = RollBack(3, 4, 2, "loss is not a number", value)
    text = json.dumps(roll_back.as_json(), allow_nan=False)
    found = RollBack.from_json(json.loads(text))
    assert (found.step, found.batch, found.from_step, found.kind) == (3, 4, 2, "loss is not a number")
    assert found.value == value or (math.isnan(found.value) and math.isnan(value))
