"""What a calibration says of stages, its own and others."""

from __future__ import annotations

import pytest

from infra.errors import ConfigurationError
from model.sizing import training_flops_per_token
from tasks.calibration import Variant
from tasks.training.schedule import Cut
from tests.tasks.calibration import synthetic


def test_updates_have_as_many_micro_batches_as_the_stage_plans() -> None:
    calibration = synthetic.calibration()
    once, four_times = (synthetic.stage(256, batch_tokens=tokens, micro_batch=4) for tokens in (1024, 4096))
    micro = synthetic.true_micro_batch_seconds(256, 4, Variant())
    assert calibration.step_seconds(once) == pytest.approx(micro + synthetic.UPDATE_SECONDS)
    assert calibration.step_seconds(four_times) == pytest.approx(4 * micro + synthetic.UPDATE_SECONDS)


def test_rates_and_utilisation_follow_from_the_seconds() -> None:
    calibration, stage = synthetic.calibration(), synthetic.stage(1024)
    rate = calibration.tokens_per_second(stage)
    assert rate == pytest.approx(stage.batch_tokens / calibration.step_seconds(stage))
    needed = training_flops_per_token(stage.model, 1024).total
    assert calibration.mfu(stage) == pytest.approx(rate * needed / 100e9)


def test_recomputed_activations_do_not_count_as_use() -> None:
    calibration = synthetic.calibration()
    plain, recomputed = synthetic.stage(1024), synthetic.stage(1024, gradient_checkpointing=True)
    assert calibration.mfu(recomputed) < calibration.mfu(plain)


def test_a_stage_is_its_updates_start_validations_and_checkpoints() -> None:
    calibration = synthetic.calibration()
    stage = synthetic.stage(
        256, batch_tokens=1024, micro_batch=4, validation_rows=8, validate_every_fraction=0.5,
        checkpoint_every_fraction=0.2, tokens=10 * 1024,
    )  # fmt: skip
    held_out = 0.3 * synthetic.true_micro_batch_seconds(256, 4, Variant()) * 2
    expected = 5.0 + 10 * calibration.step_seconds(stage) + 3 * held_out + 6 * 0.01
    assert calibration.stage_seconds(stage) == pytest.approx(expected)
    assert calibration.stage_seconds(stage.model_copy(update={"validation_rows": 0})) == pytest.approx(
        expected - 3 * held_out
    )


def test_long_stages_save_by_the_clock() -> None:
    calibration = synthetic.calibration(checkpoint_stall_seconds=7.0)
    often, seldom = (synthetic.stage(checkpoint_every_seconds=seconds) for seconds in (0.001, 600.0))
    assert calibration.stage_seconds(often) > calibration.stage_seconds(seldom) + 7


def test_another_setup_or_model_is_refused() -> None:
    calibration = synthetic.calibration()
    with pytest.raises(ConfigurationError, match=r"optimizer|muon"):
        calibration.step_seconds(synthetic.stage(optimizer="muon"))
    with pytest.raises(ConfigurationError, match="another model"):
        calibration.step_seconds(synthetic.stage(model=synthetic.MODEL.changed(width=128)))


def test_the_rope_base_and_the_longest_context_change_no_speed() -> None:
    calibration = synthetic.calibration()
    other = synthetic.MODEL.changed(rope_theta=1e6, maximum_context=2048)
    assert calibration.step_seconds(synthetic.stage(model=other)) == calibration.step_seconds(synthetic.stage())


def test_a_variant_that_was_not_measured_is_flagged() -> None:
    calibration = synthetic.calibration()
    plain, recomputed = synthetic.stage(), synthetic.stage(gradient_checkpointing=True)
    assert calibration.relative_error_of(recomputed) > calibration.relative_error_of(plain)
    assert "other settings" in calibration.basis(recomputed)
    assert "other settings" not in calibration.basis(plain)
    assert calibration.step_seconds(recomputed) > calibration.step_seconds(plain)


def test_another_model_keeps_the_rates_and_is_flagged() -> None:
    calibration = synthetic.calibration()
    larger = synthetic.MODEL.changed(layer_count=8)
    transferred = calibration.transfer(larger)
    stage = synthetic.stage(4096, model=larger, batch_tokens=32768)
    ratio = transferred.step_seconds(stage) / calibration.step_seconds(synthetic.stage(4096, batch_tokens=32768))
    flops = [training_flops_per_token(model, 4096).total for model in (synthetic.MODEL, larger)]
    assert ratio == pytest.approx(flops[1] / flops[0], rel=0.05)
    assert transferred.relative_error > calibration.relative_error + 0.1
    assert transferred.transferred_from == synthetic.MODEL
    assert "another model" in transferred.basis(stage)


def test_the_error_grows_with_the_distance() -> None:
    calibration = synthetic.calibration()
    near, far = (calibration.transfer(synthetic.MODEL.changed(layer_count=layers)) for layers in (8, 64))
    assert calibration.relative_error < near.relative_error < far.relative_error


def test_the_load_of_others_is_an_error_too() -> None:
    quiet, busy = (synthetic.calibration(other_load=load) for load in (0.0, 0.5))
    assert busy.relative_error == pytest.approx((quiet.relative_error**2 + 0.5**2) ** 0.5)
    assert busy.relative_error_of(synthetic.stage()) > quiet.relative_error_of(synthetic.stage()) + 0.4


def test_a_shortened_stage_takes_less() -> None:
    calibration, stage = synthetic.calibration(), synthetic.stage()
    shortened = stage.model_copy(update={"cuts": (Cut(after_step=2, steps=5),)})
    assert shortened.steps == 5
    saved = calibration.stage_seconds(stage) - calibration.stage_seconds(shortened)
    assert saved >= 5 * calibration.step_seconds(stage)
