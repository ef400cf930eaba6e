"""The whole pipeline as one Prefect flow: `prefect deployment run sam2-full-pipeline`."""

from __future__ import annotations

from infra.quiet import apply_quiet_environment

apply_quiet_environment()

import logging  # noqa: E402
import os  # noqa: E402 (the quiet environment comes before anything that might read it)
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from prefect import flow, get_run_logger  # noqa: E402
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact  # noqa: E402
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.runtime import flow_run as flow_run_context  # noqa: E402
from prefect.states import Completed  # noqa: E402

from flows.configuration import PipelineOverrides, ProfileName, load_profile  # noqa: E402
from flows.pipeline_graph import PlannedStage, build_graph, plan  # noqa: E402
from flows.run_record import TEXT_FILE, RunRecord, run_command  # noqa: E402
from infra.stack import StackSettings  # noqa: E402
from infra.stack.runs import mlflow_run_page, run_page  # noqa: E402
from tasks.deduplication import resolve_references  # noqa: E402
from tasks.download import resolve_sources  # noqa: E402
from tasks.download.progress import Throughput, transfers_observed  # noqa: E402
from tasks.quality import resolve_classifiers  # noqa: E402
from tasks.run_context import ArtifactReference, RunContext  # noqa: E402
from tasks.sharded_work import fork_server  # noqa: E402
from tasks.stage_task import run_stage  # noqa: E402
from tasks.tokenization import resolve_tokenizer  # noqa: E402

_TRANSFER_LOG_SECONDS = 5.0


@flow(name="sam2-full-pipeline", persist_result=True, result_serializer="json", log_prints=True)
def full_pipeline(
    profile: ProfileName = ProfileName.SMOKE,
    overrides: PipelineOverrides | None = None,
    dry_run: bool = False,
) -> State[Any]:
    """Raw text in; a trained, evaluated, quantized and registered language model out, with its cost.

    Finished artifacts are reused, an interrupted run continues from its last finished shard or
    checkpoint, and the summary and report are written whatever the end.

    Args:
        profile: What to run: a file of flows/profiles/, by name.
        overrides: Fields of the profile to change for this run; leave empty what should stay.
        dry_run: Only show what is finished, what would run, and what it cost last time.
    """
    changes = overrides.model_dump(exclude_unset=True, exclude_none=True) if overrides else {}
    home = StackSettings.from_environment().home
    config = load_profile(ProfileName(profile).value, changes)
    if not dry_run and config.download.workers > 1:
        fork_server()  # loads what the workers need while sources are pinned
    with transfers_observed(_TransferLog(get_run_logger())):
        download = resolve_sources(config.download, home / "downloads")
    config = config.model_copy(
        update={
            "download": download,
            "quality": resolve_classifiers(config.quality),
            "deduplication": resolve_references(config.deduplication),
            "tokenization": resolve_tokenizer(config.tokenization),
        }
    )
    run = _run_context(config, home)
    graph = build_graph(config)
    if dry_run:
        return _show_plan(graph, run)
    record = RunRecord(config, run, run_command(run.profile, changes), _links(run))
    _execute(graph, run, record)
    text = (run.run_directory / TEXT_FILE).read_text()
    reused = sum(stage.reused for stage in record.stages)
    return Completed(
        message=f"{len(record.stages)} stages, {reused} of them reused",
        data={"report": str(run.run_directory / "report.html"), "summary": text},
    )


class _TransferLog:
    """Says now and then how far fetching is: sources are pinned before the first stage can report anything."""

    def __init__(self, log: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> None:
        self._log = log
        self._next = time.monotonic() + _TRANSFER_LOG_SECONDS

    def __call__(self, throughput: Throughput) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _TRANSFER_LOG_SECONDS
            self._log.info("fetching sources: %s", throughput.describe())


def _execute(graph: list[PlannedStage], run: RunContext, record: RunRecord) -> None:
    """Run the stages in order; close the record with the run's status in any case."""
    references: dict[str, ArtifactReference] = {}
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
        report = record.close(status)
        _publish(run, report)


def _publish(run: RunContext, report: Path) -> None:
    text = (run.run_directory / TEXT_FILE).read_text()
    create_markdown_artifact(
        markdown=f"```\n{text}\n```\n\nReport: `{report}`", key="summary", description="Summary of the run"
    )
    mlflow_page = mlflow_run_page(run.tracking_uri, run.flow_run_id)
    if mlflow_page:
        create_link_artifact(link=mlflow_page, link_text="this run in MLflow", key="mlflow")


def _run_context(config: Any, home: Path) -> RunContext:
    identifier = flow_run_context.id
    return RunContext(
        flow_run_id=str(identifier),
        run_name=str(flow_run_context.name),
        profile=config.profile,
        home=home,
        artifact_root=config.artifact_root or str(home / "artifacts"),
        tracking_uri=os.environ["MLFLOW_TRACKING_URI"],
        experiment=config.experiment,
        price=config.budget.price,
        ceiling_usd=config.budget.ceiling_usd,
    )


def _links(run: RunContext) -> dict[str, str]:
    links = {}
    if os.environ.get("PREFECT_UI_URL"):
        links["Prefect"] = run_page(os.environ["PREFECT_UI_URL"], run.flow_run_id)
    run.tracker()  # creates the parent, so that it has a page from the first second
    page = mlflow_run_page(run.tracking_uri, run.flow_run_id)
    if page:
        links["MLflow"] = page
    return links


def _show_plan(graph: list[PlannedStage], run: RunContext) -> State[Any]:
    states = plan(graph, run.store(), run.ledger())
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
    known = [state.last_usd for state in missing if state.last_usd is not None]
    cost = f"{sum(known):.5f} USD last time" if len(known) == len(missing) else "cost not known yet for all of them"
    return Completed(message=f"dry run: {len(missing)} of {len(states)} stages would be built ({cost})", data=rows)
