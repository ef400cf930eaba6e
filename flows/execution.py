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
from flows.pipeline_graph import PlannedStage, plan
from flows.run_record import TEXT_FILE, RunRecord
from infra.artifacts import Artifact
from infra.stack.runs import mlflow_run_page, run_page
from tasks.download.progress import Throughput
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
        ceiling_usd=config.budget.ceiling_usd,
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
    graph: Sequence[PlannedStage], run: RunContext, record: RunRecord, present: Mapping[str, Artifact] | None = None
) -> None:
    """Run the stages in order; close the record with the run's status in any case.

    present: finished artifacts of other runs that stages take as inputs, by node name.
    """
    references = {name: _reference(artifact) for name, artifact in (present or {}).items()}
    status = "failed"
    store = run.store()
    try:
        for node in graph:
            inputs = {name: references[source] for name, source in node.inputs.items()}
            try:
                state: Any = run_stage(
                    node.name, node.stage, node.config, inputs, run, node.afterwards, return_state=True
                )
                references[node.name] = state.result()
            except BaseException as error:
                record.add_failure(node, error)
                raise
            record.add(node, references[node.name], references[node.name].open(store))
        record.note_registration()
        status = "completed"
    finally:
        _publish(run, record.close(status))


def completed(run: RunContext, record: RunRecord) -> State[Any]:
    """The flow's final state: how much was reused, where the report is, and the summary."""
    text = (run.run_directory / TEXT_FILE).read_text()
    reused = sum(stage.reused for stage in record.stages)
    return Completed(
        message=f"{len(record.stages)} stages, {reused} of them reused",
        data={"report": str(run.run_directory / "report.html"), "summary": text},
    )


def show_plan(graph: list[PlannedStage], run: RunContext, present: Mapping[str, Artifact] | None = None) -> State[Any]:
    """Say what a run would reuse, build and pay, and build nothing."""
    known = {name: artifact.reference for name, artifact in (present or {}).items()}
    states = plan(graph, run.store(), run.ledger(), known)
    rows = [
        {
            "stage": state.title,
            "artifact": state.reference,
            "plan": state.note,
            "USD last time": "never run" if state.last_usd is None else f"{state.last_usd:.5f}",
        }
        for state in states
    ]
    create_table_artifact(table=rows, key="plan", description="Dry run: what would be reused, built, paid")
    log = get_run_logger()
    for row in rows:
        log.info("%-48s %-34s %s", row["stage"], row["plan"], row["USD last time"])
    missing = [state for state in states if not state.finished]
    costs = [state.last_usd for state in missing if state.last_usd is not None]
    cost = f"{sum(costs):.5f} USD last time" if len(costs) == len(missing) else "cost not known yet for all of them"
    return Completed(message=f"dry run: {len(missing)} of {len(states)} stages would be built ({cost})", data=rows)


def _reference(artifact: Artifact) -> ArtifactReference:
    manifest = artifact.manifest
    return ArtifactReference(
        kind=manifest.kind, fingerprint=manifest.fingerprint, uri=artifact.uri, reused=True, seconds=0.0, usd=0.0
    )


def _publish(run: RunContext, report: Path) -> None:
    text = (run.run_directory / TEXT_FILE).read_text()
    create_markdown_artifact(
        markdown=f"```\n{text}\n```\n\nReport: `{report}`", key="summary", description="Summary of the run"
    )
    mlflow_page = mlflow_run_page(run.tracking_uri, run.flow_run_id)
    if mlflow_page:
        create_link_artifact(link=mlflow_page, link_text="this run in MLflow", key="mlflow")
