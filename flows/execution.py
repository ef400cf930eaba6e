"""What every flow does with its graph: run the stages in order, or show what running would do."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from prefect import get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run as flow_run_context
from prefect.states import Completed

from flows.configuration import BudgetConfig
from flows.looking_ahead import look_ahead
from flows.pipeline_graph import PlannedStage, plan
from flows.run_record import TEXT_FILE, RunRecord
from infra.artifacts import Artifact
from infra.stack.runs import mlflow_run_page, run_page
from tasks.download.progress import Throughput
from tasks.guard import BudgetGuard, BudgetHold
from tasks.reporting.formatting import dollars
from tasks.run_context import ArtifactReference, RunContext
from tasks.stage_task import run_stage

_TRANSFER_LOG_SECONDS = 5.0


class RunConfig(Protocol):
    """What a flow's configuration must tell of a run."""

    @property
    def profile(self) -> str: ...
    @property
    def experiment(self) -> str: ...
    @property
    def artifact_root(self) -> str | None: ...
    @property
    def budget(self) -> BudgetConfig: ...


class TransferLog:
    """Says now and then how far fetching is: sources are pinned before the first stage can report anything."""

    def __init__(self, log: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> None:
        self._log = log
        self._next = time.monotonic() + _TRANSFER_LOG_SECONDS

    def __call__(self, throughput: Throughput) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _TRANSFER_LOG_SECONDS
            self._log.info("fetching sources: %s", throughput.describe())


def run_context(config: RunConfig, home: Path) -> RunContext:
    """The context of the flow run this is called in."""
    return RunContext(
        flow_run_id=str(flow_run_context.id),
        run_name=str(flow_run_context.name),
        profile=config.profile,
        home=home,
        artifact_root=config.artifact_root or str(home / "artifacts"),
        tracking_uri=os.environ["MLFLOW_TRACKING_URI"],
        experiment=config.experiment,
        price=config.budget.price,
    )


def run_links(run: RunContext) -> dict[str, str]:
    """Pages of the run (title -> address)."""
    links = {}
    if os.environ.get("PREFECT_UI_URL"):
        links["Prefect"] = run_page(os.environ["PREFECT_UI_URL"], run.flow_run_id)
    run.tracker()  # creates the parent, so that it has a page from the first second
    page = mlflow_run_page(run.tracking_uri, run.flow_run_id)
    if page:
        links["MLflow"] = page
    return links


def execute(
    graph: Sequence[PlannedStage],
    run: RunContext,
    record: RunRecord,
    guard: BudgetGuard,
    present: Mapping[str, Artifact] | None = None,
    status: str = "completed",
) -> None:
    """Run the stages in order; close the record with `status`, or as failed.

    present: finished artifacts of other runs that stages take as inputs, by node name. Raises BudgetHold, with the
    record still open, when the guard holds the run.
    """
    try:
        _run_stages(graph, run, record, guard, references_of(present or {}))
    except BudgetHold:
        raise
    except BaseException:
        close(run, record, "failed")
        raise
    close(run, record, status)


def _run_stages(
    graph: Sequence[PlannedStage],
    run: RunContext,
    record: RunRecord,
    guard: BudgetGuard,
    references: dict[str, ArtifactReference],
) -> None:
    store = run.store()
    for node in graph:
        inputs = node.inputs_from(references)
        guard.before(node.name)
        try:
            state: Any = run_stage(
                node.name, node.stage, node.config, inputs, run, node.afterwards, guard, return_state=True
            )
            if guard.hold is not None:
                raise guard.hold
            references[node.name] = state.result()
        except BudgetHold:
            raise
        except BaseException as error:
            record.add_failure(node, error)
            raise
        artifact = references[node.name].open(store)
        record.add(node, references[node.name], artifact)
        guard.finished(node.name, artifact.manifest)
    record.note_registration()


def close(run: RunContext, record: RunRecord, status: str) -> None:
    """Write the record and show it."""
    _publish(run, record.close(status))


def completed(run: RunContext, record: RunRecord) -> State[Any]:
    """The flow's final state: how much was reused, where the report is, and the summary."""
    text = (run.run_directory / TEXT_FILE).read_text()
    reused = sum(stage.reused for stage in record.stages)
    ending = "stopped by the budget, with a partial model: " if record.status == "stopped" else ""
    return Completed(
        name="Stopped" if ending else "Completed",
        message=f"{ending}{len(record.stages)} stages, {reused} of them reused",
        data={"report": str(run.run_directory / "report.html"), "summary": text},
    )


def show_plan(
    graph: list[PlannedStage],
    run: RunContext,
    present: Mapping[str, Artifact] | None = None,
    done_steps: Mapping[str, int] | None = None,
) -> State[Any]:
    """Say what a run would reuse, build and pay, and build nothing.

    done_steps: updates that checkpoints of unfinished training stages hold, by stage name.
    """
    known = {name: artifact.reference for name, artifact in (present or {}).items()}
    states = plan(graph, run.store(), known)
    forecast = look_ahead(graph, run, known, done_steps or {})
    rows = [
        {
            "stage": state.title,
            "artifact": state.reference,
            "plan": state.note,
            "expected": "nothing" if state.finished else f"{dollars(stage.usd)} ({stage.basis})",
        }
        for state, stage in zip(states, forecast.stages, strict=True)
    ]
    create_table_artifact(table=rows, key="plan", description="Dry run: what would be reused, built, paid")
    log = get_run_logger()
    for row in rows:
        log.info("%-48s %-34s %s", row["stage"], row["plan"], row["expected"])
    missing = [state for state in states if not state.finished]
    low, high = (dollars(usd - forecast.spent_usd) for usd in (forecast.low_usd, forecast.high_usd))
    cost = f"{dollars(forecast.remaining_usd)} expected, {low} to {high}"
    return Completed(message=f"dry run: {len(missing)} of {len(states)} stages would be built ({cost})", data=rows)


def references_of(present: Mapping[str, Artifact]) -> dict[str, ArtifactReference]:
    """Finished artifacts as tasks hand them on."""
    return {
        name: ArtifactReference(
            kind=artifact.manifest.kind,
            fingerprint=artifact.manifest.fingerprint,
            uri=artifact.uri,
            reused=True,
            seconds=0.0,
            usd=0.0,
        )
        for name, artifact in present.items()
    }


def _publish(run: RunContext, report: Path) -> None:
    text = (run.run_directory / TEXT_FILE).read_text()
    create_markdown_artifact(
        markdown=f"```\n{text}\n```\n\nReport: `{report}`", key="summary", description="Summary of the run"
    )
    mlflow_page = mlflow_run_page(run.tracking_uri, run.flow_run_id)
    if mlflow_page:
        create_link_artifact(link=mlflow_page, link_text="this run in MLflow", key="mlflow")
