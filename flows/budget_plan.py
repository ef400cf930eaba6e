"""A budget plan as a Prefect flow: `prefect deployment run sam2-budget-plan`."""

from __future__ import annotations

from infra.quiet import apply_quiet_environment

apply_quiet_environment()

from pathlib import Path  # noqa: E402 (the quiet environment comes before anything that might read it)
from typing import Any, Literal  # noqa: E402

from prefect import flow, get_run_logger  # noqa: E402
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact  # noqa: E402
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.states import Completed  # noqa: E402

from flows.configuration import PipelineOverrides, ProfileName  # noqa: E402
from flows.execution import run_context  # noqa: E402
from flows.plan_making import MadePlan, PlanChoices, make_plan  # noqa: E402
from infra.stack import StackSettings  # noqa: E402
from infra.stack.runs import mlflow_run_page  # noqa: E402
from infra.tracking import PipelineTracker  # noqa: E402
from tasks.planning.presentation import (  # noqa: E402
    Findings,
    ReportTable,
    headline,
    markdown_report,
    plain_rows,
    plan_metrics,
    plan_tables,
    write_plan,
)
from tasks.run_context import RunContext  # noqa: E402
from tasks.stage_task import artifact_key  # noqa: E402

EXPERIMENT = "sam2-budget-plan"
DEPLOYMENT = "sam2-budget-plan/local"
_PLOT_FOLDER = "plots"


@flow(name="sam2-budget-plan", persist_result=True, result_serializer="json", log_prints=True)
def budget_plan(
    profile: ProfileName = ProfileName.SMOKE,
    overrides: PipelineOverrides | None = None,
    budget_usd: float | None = None,
    deadline_days: float | None = None,
    mfu: float | None = None,
    contingency: float | None = None,
    providers: list[str] | None = None,
    variants: list[Literal["on-demand", "spot", "reserved-1y", "reserved-3y"]] | None = None,
    have_reservations: bool = False,
    risk: bool = True,
) -> State[Any]:
    """What a profile would cost, where, how long it would take, and how sure that is; spends nothing.

    The tables and the report are this run's artifacts; parameters, figures, report and plots are in MLflow.

    Args:
        profile: What to plan: a file of flows/profiles/, by name.
        overrides: Fields of the profile to change for this plan; leave empty what should stay.
        budget_usd: Most that may be spent; left empty, the profile's ceiling, if it has one.
        deadline_days: Longest training time.
        mfu: Model FLOPs utilisation, e.g. 0.4; left empty, that of each kind of GPU.
        contingency: Share added to the sum; left empty, 0.1.
        providers: Only these providers; left empty, all of the price catalog.
        variants: Only these ways of buying; left empty, all.
        have_reservations: Count reserved prices for the hours used only.
        risk: Simulate what may go wrong.
    """
    changes = overrides.model_dump(exclude_unset=True, exclude_none=True) if overrides else {}
    choices = PlanChoices(
        budget_usd=budget_usd,
        deadline_days=deadline_days,
        mfu=mfu,
        contingency=contingency,
        providers=tuple(providers or ()),
        variants=tuple(variants or ()),
        have_reservations=have_reservations,
        risk=risk,
    )
    home = StackSettings.from_environment().home
    made = make_plan(ProfileName(profile).value, changes, choices, home)
    run = run_context(made.config.model_copy(update={"experiment": EXPERIMENT}), home)
    findings = made.findings()
    paths = write_plan(run.run_directory, made.plan, findings)
    track(run.tracker(), made, choices, paths)
    publish(run, made, findings)
    top = headline(made.plan, made.risk)
    log = get_run_logger()
    log.info(top.what)
    for label, sentence in top.lines:
        log.info("%s: %s", label, sentence)
    return Completed(message=one_line(made), data={"report": str(run.run_directory), **plan_metrics(made.plan)})


def one_line(made: MadePlan) -> str:
    """The plan in a sentence, for the run's state."""
    label, sentence = headline(made.plan).lines[0]
    return f"{made.config.profile}: {label.lower()} {sentence}"


def track(tracker: PipelineTracker, made: MadePlan, choices: PlanChoices, paths: list[Path]) -> None:
    """Into MLflow: what was asked, the plan's figures, and its files."""
    tracker.log_parameters({"choices": choices.model_dump(mode="json"), **made.config.model_dump(mode="json")})
    tracker.log_metrics(plan_metrics(made.plan, made.risk))
    for path in paths:
        tracker.log_file(path, _PLOT_FOLDER if path.suffix == ".png" else None)
    tracker.set_tags({"sam2.kind": "plan", "sam2.catalog": made.plan.catalog_as_of.isoformat()})
    tracker.finish("FINISHED")


def publish(run: RunContext, made: MadePlan, findings: Findings | None) -> None:
    """Into the Prefect UI: the tables, the report, and the way to MLflow."""
    for table in plan_tables(made.plan, made.risk):
        create_table_artifact(table=plain_rows(table), key=table_key(table), description=_description(table))
    # Pictures are files beside the report: the Prefect UI has no way to them, MLflow shows them.
    create_markdown_artifact(
        markdown=markdown_report(made.plan, findings), key=artifact_key("plan", "report"), description="The plan"
    )
    page = mlflow_run_page(run.tracking_uri, run.flow_run_id)
    if page:
        create_link_artifact(link=page, link_text="this plan in MLflow", key="mlflow")


def table_key(table: ReportTable) -> str:
    """Name of the table's artifact."""
    return artifact_key("plan", table.key)


def _description(table: ReportTable) -> str:
    return f"**{table.title}**" + (f"\n\n{table.note}" if table.note else "")
