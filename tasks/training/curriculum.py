"""Where each stage of a curriculum begins in which data order: known from the configuration alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model import ModelConfig
from tasks.training.config import CurriculumStage, TrainingConfig, TrainingStageConfig

#: What rows are made by: a stage goes on with another's rows only where these are equal.
_OF_THE_ROWS = ("context_tokens", "packing", "mixture", "long_documents")


@dataclass(frozen=True)
class PlacedStage:
    """One stage to train. `data_order` names the stage that began its data order, None where it is this one."""

    stage: CurriculumStage
    data_order: str | None = None
    first_row: int = 0

    @property
    def end_row(self) -> int:
        """The row of the data order after this stage's last."""
        return self.first_row + self.stage.steps * self.stage.rows_per_step

    def resolve(self, training: TrainingConfig, model: ModelConfig) -> TrainingStageConfig:
        """Everything this stage's checkpoint depends on, in one configuration."""
        return self.stage.resolve(training, model, data_order=self.data_order, first_row=self.first_row)


def place_stages(curriculum: Sequence[CurriculumStage]) -> list[PlacedStage]:
    """The stages to train in order: repeated ones several times, each where its data order goes on.

    `continues` on the name of a repeated stage means its last repetition. Raises ValueError naming the stage and the
    fix when names repeat, and when a stage continues one that is not before it, that makes other rows, or that another
    stage continues already.
    """
    placed: list[PlacedStage] = []
    last_of: dict[str, PlacedStage] = {}
    continued_by: dict[str, str] = {}
    for entry in curriculum:
        before = None
        if entry.continues is not None:
            before = _continued(entry, last_of, continued_by)
        for number in range(1, entry.repeat + 1):
            stage = entry if number == 1 else entry.model_copy(update={"name": f"{entry.name}-{number}"})
            if before is not None:
                continued_by[before.stage.name] = stage.name
                before = PlacedStage(stage, before.data_order or before.stage.name, before.end_row)
            else:
                before = PlacedStage(stage)
            if stage.name in last_of:
                raise ValueError(f"curriculum: stage names repeat ({stage.name}); give each its own")
            last_of[stage.name] = before
            placed.append(before)
        assert before is not None  # repeat is at least 1
        last_of[entry.name] = before
    return placed


def begin_after(drawn: Mapping[str, int], config: TrainingStageConfig) -> int:
    """The row that a stage really begins with: its `first_row`, or later where stages before it skipped batches.

    `drawn` are the rows drawn of each data order so far (`rows_drawn` of the previous stage).
    """
    return max(config.first_row, drawn.get(config.data_order or config.name, 0))


def rows_drawn(drawn: Mapping[str, int], config: TrainingStageConfig, batches: int) -> dict[str, int]:
    """Rows drawn of each data order after a stage that took or skipped so many batches, given those drawn before it.

    A stage that skips a batch takes one more at its end than the configuration tells; a stage that continues it
    begins after that one, so that still no token is seen twice.
    """
    end = begin_after(drawn, config) + batches * config.rows_per_step
    return {**drawn, config.data_order or config.name: end}


def _continued(entry: CurriculumStage, last_of: dict[str, PlacedStage], continued_by: dict[str, str]) -> PlacedStage:
    name = entry.continues or ""
    if name not in last_of:
        known = f"use one of {', '.join(last_of)}, or leave" if last_of else "leave"
        raise ValueError(
            f"curriculum: stage '{entry.name}' continues '{name}', which is no stage before it; {known} continues out"
        )
    before = last_of[name]
    for field in _OF_THE_ROWS:
        own, other = getattr(entry, field), getattr(before.stage, field)
        if own != other:
            raise ValueError(
                f"curriculum: stage '{entry.name}' continues '{name}' but its {field} is {own}, not {other}; "
                "make them equal, or leave continues out"
            )
    if before.stage.name in continued_by:
        raise ValueError(
            f"curriculum: stages '{continued_by[before.stage.name]}' and '{entry.name}' both continue '{name}' and "
            f"would train on the same rows; let '{entry.name}' continue '{continued_by[before.stage.name]}'"
        )
    return before
