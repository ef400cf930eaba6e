"""The record of one run: what each stage did, written out at the end whatever the end was."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.machine import describe_machine
from flows.pipeline_graph import PlannedStage
from infra.artifacts import Artifact
from infra.artifacts.builder import code_version
from infra.storage.local import atomic_file
from tasks.forecasting import read_first_forecast
from tasks.guard import DecisionLog
from tasks.guard.decisions import DECISION_FILE
from tasks.registration.task import registered_version
from tasks.reporting import (
    BudgetDecision,
    PlanComparison,
    RegisteredVersion,
    RunSummary,
    Spend,
    StageSpend,
    StageSummary,
    TextSample,
    compare_plan,
    plan_metrics,
    text_summary,
    write_report,
)
from tasks.reporting.formatting import dollars
from tasks.run_context import ArtifactReference, RunContext

REPORT_FILE = "report.html"
SUMMARY_FILE = "summary.json"
TEXT_FILE = "summary.txt"

#: How a run ended or waits -> the status of its MLflow run.
_TRACKED = {"completed": "FINISHED", "stopped": "FINISHED", "waiting": "SCHEDULED"}

#: Figures of the stages that are repeated on the parent run, where runs are compared.
_COMPARED = ("eval/", "quant/", "train/", "dedup/", "quality/", "tokens/", "throughput/")


@dataclass
class RunRecord:
    """Gathers the stages as they end; `close` writes the summary, the report and the parent's totals."""

    config: BaseModel
    run: RunContext
    command: str
    links: dict[str, str]
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    stages: list[StageSummary] = field(default_factory=list)
    registered: RegisteredVersion | None = None
    ceiling_usd: float | None = None
    status: str = "running"

    def add(self, node: PlannedStage, reference: ArtifactReference, artifact: Artifact) -> None:
        """Note a finished stage."""
        self.stages.append(
            StageSummary(
                name=node.name,
                title=node.title,
                manifest=artifact.manifest,
                directory=artifact.directory,
                reused=reference.reused,
                seconds=reference.seconds,
                usd=reference.usd,
            )
        )

    def add_failure(self, node: PlannedStage, error: BaseException) -> None:
        """Note the stage that ended the run."""
        self.stages.append(StageSummary(name=node.name, title=node.title, error=f"{type(error).__name__}: {error}"))

    def note_registration(self) -> None:
        """Look up what the registry holds for this run's bundle."""
        found = registered_version(self.stages[-1].manifest, self.run)
        if found is not None:
            self.registered = RegisteredVersion(
                name=found.name, version=found.version, aliases=found.aliases, note=found.note
            )

    def close(self, status: str) -> Path:
        """Write everything and return the report's path; status: completed, stopped, waiting or failed."""
        self.status = status
        summary = self._summary(status)
        directory = self.run.run_directory
        directory.mkdir(parents=True, exist_ok=True)
        report = directory / REPORT_FILE
        write_report(summary, report)
        _write(directory / TEXT_FILE, text_summary(summary))
        content = json.loads(summary.model_dump_json()) | {"report": str(report)}
        _write(directory / SUMMARY_FILE, json.dumps(content, indent=1))
        self._track(summary, report)
        return report

    def _summary(self, status: str) -> RunSummary:
        return RunSummary(
            flow_run_id=self.run.flow_run_id,
            run_name=self.run.run_name,
            profile=self.run.profile,
            status=status,
            started_at=self.started_at,
            finished_at=datetime.now(UTC),
            code_version=code_version(),
            command=self.command,
            machine=describe_machine(),
            stages=self.stages,
            spend=self._spend(),
            links=self.links,
            samples=self._samples(),
            registered=self.registered,
            plan=self._plan(),
            decisions=self._decisions(),
        )

    def _plan(self) -> PlanComparison | None:
        """The run's first forecast beside what its attempts took, those before an interruption included."""
        forecast = read_first_forecast(self.run.run_directory)
        if forecast is None:
            return None
        attempts = [a for a in self.run.ledger().attempts() if a.run_id == self.run.flow_run_id]
        built = {attempt.stage for attempt in attempts if attempt.outcome != "reused"}
        return compare_plan(
            forecast.stages,
            attempts,
            reused={attempt.stage for attempt in attempts} - built,
            changed={stage.name for stage in self.stages if stage.manifest and stage.manifest.config.get("cuts")},
            low_usd=forecast.low_usd - forecast.spent_usd,
            high_usd=forecast.high_usd - forecast.spent_usd,
        )

    def _decisions(self) -> list[BudgetDecision]:
        log = DecisionLog(self.run.run_directory / DECISION_FILE)
        told = [
            BudgetDecision(
                time=decision.decided_at,
                question=question.reason,
                answer=f"{decision.choice} ({decision.decided_by}), ceiling {dollars(decision.ceiling_usd)}",
            )
            for question, decision in log.decisions
        ]
        waiting = log.open_question
        if waiting is not None:
            told.append(BudgetDecision(time=waiting.asked_at, question=waiting.reason, answer="not answered yet"))
        return told

    def _spend(self) -> Spend:
        ledger, run = self.run.ledger(), self.run
        by_stage = ledger.spend_by("stage", profile=run.profile)
        return Spend(
            this_run_usd=ledger.total_usd(run_id=run.flow_run_id),
            total_usd=ledger.total_usd(profile=run.profile),
            ceiling_usd=self.ceiling_usd,
            usd_per_hour=run.price.usd_per_hour,
            price_note=run.price.note,
            by_stage=[
                StageSpend(stage=row.key, attempts=row.attempts, seconds=row.seconds, usd=row.usd) for row in by_stage
            ],
        )

    def _samples(self) -> list[TextSample]:
        found: list[TextSample] = []
        for stage in self.stages:
            if stage.manifest and stage.manifest.kind == "evaluation":
                for sample in stage.manifest.statistics.get("samples", []):
                    found.append(TextSample(prompt=sample["prompt"], text=sample["continuation"], model="fp32"))
        return found

    def _track(self, summary: RunSummary, report: Path) -> None:
        tracker = self.run.tracker()
        tracker.log_parameters(self.config.model_dump(mode="json"))
        tracker.log_metrics(parent_metrics(summary) | (plan_metrics(summary.plan) if summary.plan else {}))
        tracker.log_file(report)
        tracker.set_tags({"sam2.status": summary.status, "sam2.code_version": summary.code_version})
        tracker.finish(_TRACKED.get(summary.status, "FAILED"))


def parent_metrics(summary: RunSummary) -> dict[str, float]:
    """Totals of the run and the figures runs are compared by; a later stage's figure replaces an earlier's."""
    built = [stage.manifest.cost for stage in summary.stages if stage.manifest]
    metrics = {
        "cost/usd": summary.spend.this_run_usd,
        "cost/seconds": summary.seconds,
        "cost/usd_when_built": sum(cost.usd for cost in built),
        "cost/usd_profile_total": summary.spend.total_usd,
        "stages/reused": float(sum(stage.reused for stage in summary.stages)),
        "stages/built": float(sum(not stage.reused for stage in summary.stages if stage.manifest)),
    }
    for stage in summary.stages:
        if stage.manifest:
            chosen = {k: v for k, v in stage.manifest.metrics.items() if k.startswith(_COMPARED)}
            metrics.update(chosen)
    return metrics


def run_command(profile: str, overrides: Mapping[str, Any], command: str = "sam2 run") -> str:
    """The command that makes this run again."""
    assignments = [f"--set {shlex.quote(f'{path}={value}')}" for path, value in _leaves(overrides)]
    return " ".join([command, f"--profile {profile}", *assignments])


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    leaves: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves += _leaves(value, f"{prefix}{key}.")
        elif value is not None:
            leaves.append((f"{prefix}{key}", json.dumps(value)))
    return leaves


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as stream:
        stream.write(text.encode())
