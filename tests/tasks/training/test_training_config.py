"""Refusals before anything is spent, and what a stage's identity is."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from infra.artifacts import plan_fingerprint
from model import ModelConfig
from tasks.training import STAGE, CurriculumStage, TrainingConfig
from tests.tasks.training.conftest import MODEL, stage_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_tokens": 100}, "batch_tokens 100 is not a multiple of context_tokens 32; use 96 or 128"),
        ({"micro_batch": 3}, "micro_batch × data-parallel ranks = 96; use 192"),
        ({"ranks": 3, "micro_batch": None}, "3 data-parallel ranks cannot share equally; use a multiple of 96"),
        ({"tokens": 200}, "use at least 256"),
        ({"final_learning_rate": 1.0}, "exceeds learning_rate"),
        ({"warmup_steps": 13}, "exceeds the stage's 12 updates"),
        ({"precision": "bf16"}, "set zero_stage to 1"),
        ({"context_tokens": 512, "batch_tokens": 1024}, "exceeds model.maximum_context 256"),
        ({"mixture": {"books": 0.0}}, "must not all be 0"),
        ({"mixture": {"books": 1.0, "mail": 1e-6}}, "below 1/1024"),
        ({"betas": (0.9, 1.0)}, "must both lie in"),
        ({"name": "Not A Name"}, "name"),
        ({"surprise": 1}, "surprise"),
        ({"cuts": [{"after_step": 5, "steps": 4}]}, "less than the 5 updates already made"),
        ({"cuts": [{"after_step": 5, "steps": 13}]}, "stage 'first' of 12 updates, last cut after 0, cannot be cut"),
        ({"cuts": [{"after_step": 5, "steps": 9}, {"after_step": 4, "steps": 8}]}, "last cut after 5, cannot be cut"),
    ],
)
def test_what_cannot_work_is_refused_with_the_field_and_the_fix(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        stage_config(**changes)


def test_the_micro_batch_left_out_is_the_largest_that_fits() -> None:
    stage = {"context_tokens": 256, "batch_tokens": 256 * 48, "tokens": 256 * 480, "micro_batch": None}
    plan = stage_config(**stage).batch_plan
    assert (plan.micro_batch, plan.accumulation) == (24, 2)
    plan = stage_config(**stage, ranks=16).batch_plan
    assert (plan.micro_batch, plan.accumulation) == (3, 1)


def test_how_often_checkpoints_are_made_is_no_part_of_the_identity() -> None:
    assert stage_config(checkpoint_every_fraction=0.5).identity() == stage_config().identity()
    for change in ({"ranks": 2}, {"threads_per_rank": 2}, {"seed": 1}, {"zero_stage": 1}):
        assert stage_config(**change).identity() != stage_config().identity()
    assert stage_config().identity()["model"]["width"] == 32


def test_a_stage_that_was_never_shortened_is_the_stage_it_was() -> None:
    inputs = {"tokens": "tokens/x"}
    assert "cuts" not in stage_config().identity()
    # As computed before stages could be shortened.
    assert plan_fingerprint(STAGE, stage_config(), inputs) == "465ed13f5a89967f7712a7ffd0015e41"
    shorter = stage_config(cuts=[{"after_step": 5, "steps": 9}])
    assert shorter.identity()["cuts"] == [{"after_step": 5, "steps": 9}]
    assert plan_fingerprint(STAGE, shorter, inputs) != plan_fingerprint(STAGE, stage_config(), inputs)
    assert shorter.steps == 9 and shorter.planned_steps == 12


def test_a_cut_moves_no_measurement_unless_the_stage_had_not_begun() -> None:
    begun = stage_config(tokens=100 * 256, cuts=[{"after_step": 50, "steps": 60}])
    assert begun.every(0.1) == 10
    not_begun = stage_config(tokens=100 * 256, cuts=[{"after_step": 0, "steps": 50}, {"after_step": 0, "steps": 30}])
    assert not_begun.every(0.1) == 3


def test_a_curriculum_stage_is_completed_with_what_all_stages_share() -> None:
    stage = CurriculumStage(
        name="long", context_tokens=64, tokens=6400, batch_tokens=640, learning_rate=1e-3, rope_theta=5e5
    )
    config = stage.resolve(TrainingConfig(seed=9, zero_stage=2), MODEL)
    assert (config.name, config.seed, config.zero_stage, config.steps) == ("long", 9, 2, 10)
    assert config.stage_model.rope_theta == 5e5
    assert config.model.rope_theta == MODEL.rope_theta


def test_a_stage_replaces_how_it_is_placed_and_keeps_the_rest() -> None:
    training = TrainingConfig(ranks=8, precision="bf16", zero_stage=2, gradient_checkpointing=True)
    long = {"name": "long", "context_tokens": 64, "tokens": 1024, "batch_tokens": 128, "learning_rate": 1e-3}
    stage = CurriculumStage.model_validate(long | {"zero_stage": 3, "sequence_parallel": 4, "offload_parameters": True})
    resolved = stage.resolve(training, ModelConfig(attention_heads=4, maximum_context=64))
    assert (resolved.zero_stage, resolved.sequence_parallel, resolved.offload_parameters) == (3, 4, True)
    assert (resolved.gradient_checkpointing, resolved.offload_optimizer) == (True, False)
    assert resolved.batch_plan.data_ranks == 2
    assert resolved.deepspeed_config()["train_batch_size"] == 8 * resolved.batch_plan.accumulation


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": 6, "sequence_parallel": 4}, "does not divide ranks 6"),
        ({"offload_optimizer": True}, "set zero_stage to 1, 2 or 3"),
        ({"zero_stage": 2, "offload_parameters": True}, "needs zero_stage 3, not 2"),
        ({"offload_activations": True}, "set gradient_checkpointing"),
    ],
)
def test_a_placement_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingConfig.model_validate(changes)


def test_heads_that_the_ranks_of_a_row_cannot_share_are_refused() -> None:
    training = TrainingConfig(ranks=3, sequence_parallel=3)
    stage = CurriculumStage(name="one", context_tokens=96, tokens=960, batch_tokens=96, learning_rate=1e-3)
    with pytest.raises(ValidationError, match="attention_heads=4"):
        stage.resolve(training, ModelConfig(attention_heads=4, maximum_context=96))
