"""A model whose training was stopped early: what it was given of what was planned, and why it ended there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from tasks.training import TrainingStageConfig

#: Tags in the registry.
PARTIAL, PARTIAL_TOKENS = "sam2.partial", "sam2.partial_tokens"


class PartialStage(BaseModel):
    """One training stage: updates and tokens of it, and of its plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    steps: int = Field(ge=0)
    planned_steps: int = Field(ge=1)
    tokens: int = Field(ge=0)
    planned_tokens: int = Field(ge=1)


class PartialTraining(BaseModel):
    """What a model was trained on of what its curriculum had planned."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stages: tuple[PartialStage, ...] = Field(min_length=1, description="the whole curriculum, in order")
    reason: str = Field(min_length=1, description="why training was stopped")

    @model_validator(mode="after")
    def _something_is_missing(self) -> Self:
        if not 0 < self.tokens < self.planned_tokens:
            raise ValueError(
                f"partial: {self.tokens} of {self.planned_tokens} planned tokens; a partial model was trained on some "
                "of them and not on all: leave partial out"
            )
        return self

    @property
    def tokens(self) -> int:
        """Tokens trained on."""
        return sum(stage.tokens for stage in self.stages)

    @property
    def planned_tokens(self) -> int:
        """Tokens of the whole curriculum."""
        return sum(stage.planned_tokens for stage in self.stages)

    @property
    def sentence(self) -> str:
        """What a person must know, in one line."""
        share = self.tokens / self.planned_tokens
        ended = [stage for stage in self.stages if stage.steps][-1]
        whole = [stage for stage in self.stages if stage.steps >= stage.planned_steps]
        return (
            f"Training was stopped early, after {self.tokens:,} of {self.planned_tokens:,} planned tokens "
            f"({share:.0%}): {len(whole)} of {len(self.stages)} stages are whole, and stage '{ended.name}' ended at "
            f"update {ended.steps:,} of {ended.planned_steps:,}. Reason: {self.reason.rstrip('.')}."
        )

    def as_statistics(self) -> dict[str, Any]:
        """For the manifest."""
        return {**self.model_dump(mode="json"), "tokens": self.tokens, "planned_tokens": self.planned_tokens}

    def tags(self) -> dict[str, str]:
        """For the registry."""
        return {
            PARTIAL: "true",
            PARTIAL_TOKENS: f"{self.tokens:,} of {self.planned_tokens:,}",
        }


def partial_training(
    planned: Sequence[TrainingStageConfig], kept: Sequence[TrainingStageConfig], reason: str
) -> PartialTraining | None:
    """What the stages that were `kept` (`stop_at`) are of the `planned` ones; None when nothing was broken off.

    A stage that was made shorter and came to its new end is no more partial than one that was planned so.
    """
    made = {stage.name: stage.steps for stage in kept}
    if set(made) == {stage.name for stage in planned} and not any(map(_is_broken_off, kept)):
        return None
    stages = (
        PartialStage(
            name=stage.name,
            steps=made.get(stage.name, 0),
            planned_steps=stage.planned_steps,
            tokens=made.get(stage.name, 0) * stage.batch_tokens,
            planned_tokens=stage.planned_steps * stage.batch_tokens,
        )
        for stage in planned
    )
    return PartialTraining(stages=tuple(stages), reason=reason)


def _is_broken_off(stage: TrainingStageConfig) -> bool:
    return bool(stage.cuts) and stage.cuts[-1].steps == stage.cuts[-1].after_step
