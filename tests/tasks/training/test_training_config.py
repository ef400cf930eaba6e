"""Refusals before anything is spent, and what a stage's identity is."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from model import ModelConfig
from tasks.training import CurriculumStage, TrainingConfig
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
