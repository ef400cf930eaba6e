"""The fitted line finds rates that it was made from, and tells how far it is off."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigurationError
from model import ModelConfig
from tasks.calibration import Variant, fit_step_time
from tasks.calibration.work import work_of
from tests.tasks.calibration import synthetic


def test_rates_are_found() -> None:
    fitted = fit_step_time(synthetic.MODEL, synthetic.measurements())
    assert fitted.seconds_per_micro_batch == pytest.approx(synthetic.CALL_SECONDS)
    assert fitted.seconds_per_flop == pytest.approx(synthetic.FLOP_SECONDS)
    assert fitted.seconds_per_pair_flop == pytest.approx(synthetic.PAIR_SECONDS)
    assert fitted.seconds_per_update == pytest.approx(synthetic.UPDATE_SECONDS)
    assert fitted.worst_error < 1e-9


@given(context=st.integers(32, 8192), rows=st.integers(1, 16), micro_batches=st.integers(1, 8))
def test_unseen_configurations_follow(context: int, rows: int, micro_batches: int) -> None:
    fitted = fit_step_time(synthetic.MODEL, synthetic.measurements())
    predicted = fitted.update_seconds(work_of(synthetic.MODEL, context, rows, Variant()), micro_batches)
    true = micro_batches * synthetic.true_micro_batch_seconds(context, rows, Variant()) + synthetic.UPDATE_SECONDS
    assert predicted == pytest.approx(true)


@given(seed=st.integers(0, 1000))
def test_rates_are_never_negative_and_noise_shows_as_error(seed: int) -> None:
    generator = random.Random(seed)
    noise = [generator.uniform(0.7, 1.4) for _ in synthetic.POINTS]
    fitted = fit_step_time(synthetic.MODEL, synthetic.measurements(noise=noise))
    assert min(fitted.seconds_per_micro_batch, fitted.seconds_per_flop, fitted.seconds_per_pair_flop) >= 0
    assert 0.01 < fitted.relative_error <= fitted.worst_error


def test_one_wrong_context_is_seen_by_leaving_it_out() -> None:
    noise = [1.0, 1.0, 1.5, 1.5, 1.0, 1.0, 1.0]
    fitted = fit_step_time(synthetic.MODEL, synthetic.measurements(noise=noise))
    assert fitted.worst_error > 0.2


def test_measuring_noise_is_the_least_error() -> None:
    points = [point.model_copy(update={"spread": 0.08}) for point in synthetic.measurements()]
    assert fit_step_time(synthetic.MODEL, points).relative_error == pytest.approx(0.08)


def test_a_model_without_attention_has_no_pairs() -> None:
    model = ModelConfig(vocabulary_size=512, width=64, layer_count=2, pattern=("hgrn2",), hgrn2_head_dim=32)
    points = [
        point.model_copy(
            update={"micro_batch_seconds": synthetic.true_micro_batch_seconds(*key, Variant(), model=model)}
        )
        for key, point in zip(synthetic.POINTS, synthetic.measurements(), strict=True)
    ]
    fitted = fit_step_time(model, points)
    assert fitted.seconds_per_pair_flop == 0
    assert fitted.seconds_per_flop == pytest.approx(synthetic.FLOP_SECONDS)


def test_two_points_are_too_few() -> None:
    with pytest.raises(ConfigurationError, match="--seconds"):
        fit_step_time(synthetic.MODEL, synthetic.measurements()[:2])


def test_a_single_context_leaves_out_points() -> None:
    fitted = fit_step_time(synthetic.MODEL, synthetic.measurements([(256, 1), (256, 2), (256, 4), (256, 8)]))
    assert fitted.worst_error < 1e-6


def test_recomputation_is_counted_as_work() -> None:
    plain = work_of(synthetic.MODEL, 256, 2, Variant())
    recomputed = work_of(synthetic.MODEL, 256, 2, Variant(gradient_checkpointing=True))
    chunked = work_of(synthetic.MODEL, 256, 2, Variant(feed_forward_chunk_tokens=64))
    assert recomputed.by_pair == pytest.approx(plain.by_pair * 4 / 3)
    assert plain.by_token < chunked.by_token < recomputed.by_token < plain.by_token * 4 / 3  # the head runs once


def test_ranks_that_share_rows_share_their_work() -> None:
    whole, shared = (work_of(synthetic.MODEL, 256, 2, Variant(sequence_parallel=ranks)) for ranks in (1, 2))
    assert shared.by_token == pytest.approx(whole.by_token / 2)
    assert shared.by_pair == pytest.approx(whole.by_pair / 2)
