"""What a finished (or failed) run looked like: the only input of the report."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from infra.artifacts import Manifest
from tasks.registration.version import RegisteredVersion
from tasks.reporting.plan_comparison import BudgetDecision, PlanComparison


class _Part(BaseModel):
    """A part of the summary: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StageSummary(_Part):
    """One stage of the run, in the order it ran."""

    name: str = Field(description="stage name as the ledger and MLflow write it")
    title: str = Field(description="name for people")
    manifest: Manifest | None = Field(default=None, description="of the finished artifact; None when the stage failed")
    directory: Path | None = Field(default=None, description="the artifact's files on this machine")
    reused: bool = Field(default=False, description="the artifact was already there, intact")
    seconds: float = Field(default=0.0, ge=0, description="wall-clock seconds this run spent on it")
    usd: float = Field(default=0.0, ge=0, description="dollars this run spent on it")
    error: str = Field(default="", description="why it failed; empty when it did not")


class Machine(_Part):
    """The machine the run used."""

    cores: int = Field(ge=1)
    memory_bytes: int = Field(ge=0)
    python: str
    accelerator: str = Field(default="", description="GPU name and count; empty on a CPU machine")
    platform: str = ""


class StageSpend(_Part):
    """The ledger's total of one stage, all attempts and runs of the profile together."""

    stage: str
    attempts: int = 0
    seconds: float = 0.0
    usd: float = 0.0


class Spend(_Part):
    """What the run cost and what the profile has cost so far."""

    this_run_usd: float = 0.0
    total_usd: float = Field(default=0.0, description="all runs and attempts of this profile")
    ceiling_usd: float | None = Field(default=None, description="the profile's hard ceiling; None when it has none")
    usd_per_hour: float = 0.0
    price_note: str = Field(default="", description="where the hourly price comes from")
    by_stage: list[StageSpend] = Field(default_factory=list)


class TextSample(_Part):
    """A prompt and what the model made of it."""

    prompt: str
    text: str = Field(description="the continuation, without the prompt")
    model: str = Field(default="", description="which file wrote it: fp32, int8, Q4_K_M")


class RunSummary(_Part):
    """One pipeline run, ready to be told."""

    flow_run_id: str
    run_name: str
    profile: str
    status: str = Field(description="completed, stopped or waiting (by the budget), failed, cancelled or running")
    started_at: datetime
    finished_at: datetime | None = None
    code_version: str = ""
    command: str = Field(default="", description="what reproduces this run; made from the profile when empty")
    machine: Machine
    stages: list[StageSummary] = Field(default_factory=list)
    spend: Spend = Field(default=Spend())
    links: dict[str, str] = Field(default_factory=dict, description="title -> http(s) address")
    samples: list[TextSample] = Field(default_factory=list)
    registered: RegisteredVersion | None = None
    plan: PlanComparison | None = Field(default=None, description="planned cost beside the actual one")
    decisions: list[BudgetDecision] = Field(default_factory=list, description="of the budget guard, in order")

    @property
    def seconds(self) -> float:
        """Wall-clock seconds from start to end; the stages' sum while the run has no end."""
        if self.finished_at is None:
            return sum(stage.seconds for stage in self.stages)
        return max(0.0, (self.finished_at - self.started_at).total_seconds())

    def finished(self, *kinds: str) -> list[StageSummary]:
        """Stages whose artifact is of one of these kinds, in run order."""
        return [stage for stage in self.stages if stage.manifest is not None and stage.manifest.kind in kinds]
