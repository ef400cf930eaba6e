"""What was asked and answered in a run, kept beside its report: a run that is started again reads it first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import ConfigurationError
from infra.storage.local import atomic_file
from tasks.forecasting import Forecast

DECISION_FILE = "budget_decisions.jsonl"


class Choice(StrEnum):
    """What a person can say to a run that would cost too much."""

    APPROVE = "approve"
    SHRINK = "shrink"
    STOP = "stop"


class Question(BaseModel):
    """Why a run waits. `done_steps` are updates that the stage's checkpoints hold; None for a stage without updates."""

    model_config = ConfigDict(frozen=True)
    number: int = Field(ge=1)
    asked_at: datetime
    stage: str
    done_steps: int | None = None
    reason: str
    ceiling_usd: float
    forecast: Forecast


class Decision(BaseModel):
    """The answer, and what follows from it.

    share: of the remaining updates that are still made. done_steps: updates made when it was decided, by stage.
    """

    model_config = ConfigDict(frozen=True)
    choice: Choice
    decided_at: datetime
    decided_by: str = Field(description="a person, or the guard by its configuration")
    ceiling_usd: float
    share: float = Field(1.0, ge=0, le=1)
    done_steps: dict[str, int] = Field(default_factory=dict)
    note: str = ""


class _Record(BaseModel):
    question: Question
    decision: Decision | None = None


class DecisionLog:
    """Questions and decisions of one run, in order, each file written whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def open_question(self) -> Question | None:
        """The question that waits for an answer."""
        records = self._read()
        return records[-1].question if records and records[-1].decision is None else None

    @property
    def decisions(self) -> list[tuple[Question, Decision]]:
        """Answered questions, oldest first."""
        return [(record.question, record.decision) for record in self._read() if record.decision is not None]

    def ask(
        self, *, stage: str, done_steps: int | None, reason: str, ceiling_usd: float, forecast: Forecast
    ) -> Question:
        """Note a question; one that waits already is replaced, under the next number."""
        records = self._read()
        question = Question(
            number=len(records) + 1, asked_at=datetime.now(UTC), stage=stage, done_steps=done_steps, reason=reason,
            ceiling_usd=ceiling_usd, forecast=forecast,
        )  # fmt: skip
        if records and records[-1].decision is None:
            question = question.model_copy(update={"number": records[-1].question.number + 1})
            records.pop()
        self._write([*records, _Record(question=question)])
        return question

    def decide(
        self,
        choice: Choice,
        *,
        decided_by: str,
        ceiling_usd: float,
        share: float = 1.0,
        done_steps: Mapping[str, int] | None = None,
        note: str = "",
    ) -> Decision:
        """Note the answer to the open question."""
        records = self._read()
        if not records or records[-1].decision is not None:
            raise ConfigurationError("this run has no open question.", "answer a run that waits (`sam2 status`).")
        decision = Decision(
            choice=choice, decided_at=datetime.now(UTC), decided_by=decided_by, ceiling_usd=ceiling_usd, share=share,
            done_steps=dict(done_steps or {}), note=note,
        )  # fmt: skip
        records[-1] = _Record(question=records[-1].question, decision=decision)
        self._write(records)
        return decision

    def _read(self) -> list[_Record]:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        try:
            return [_Record.model_validate_json(line) for line in lines]
        except ValidationError as error:
            raise ConfigurationError(
                f"'{self.path}' cannot be read: {error.error_count()} bad fields.",
                "restore it, or remove it to forget what was decided in this run.",
            ) from error

    def _write(self, records: list[_Record]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.path) as stream:
            for record in records:
                stream.write(json.dumps(record.model_dump(mode="json")).encode() + b"\n")
