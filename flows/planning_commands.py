"""`sam2 plan`: what a profile would cost, before anything is fetched or rented."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from flows.plan_making import MadePlan
    from tasks.planning.presentation import ReportTable

console = Console(highlight=False)


def add_planning_commands(app: typer.Typer) -> None:
    """Put the command into the `sam2` command line."""
    app.command("plan")(plan)


def plan(
    profile: Annotated[str, typer.Option(help="A profile of flows/profiles/, by name.")] = "sam2-5.5b",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a field, e.g. --set training.ranks=16; repeatable.", metavar="PATH=VALUE"),
    ] = None,
    budget_usd: Annotated[
        float | None,
        typer.Option(min=0, help="Most that may be spent; by default the profile's ceiling, if it has one."),
    ] = None,
    deadline_days: Annotated[float | None, typer.Option(min=0, help="Longest training time.")] = None,
    mfu: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Model FLOPs utilisation, e.g. 0.4; by default that of each kind of GPU."),
    ] = None,
    provider: Annotated[
        list[str] | None, typer.Option(help="Only this provider: aws, gcp, azure, lambda, ...; repeatable.")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option(help="Only on-demand, spot, reserved-1y or reserved-3y; repeatable.")
    ] = None,
    have_reservations: Annotated[
        bool, typer.Option("--have-reservations", help="Count reserved prices for the hours used only.")
    ] = False,
    catalog: Annotated[Path | None, typer.Option(help="Prices of your own, as infra/budget/catalog.yaml.")] = None,
    contingency: Annotated[float | None, typer.Option(min=0, help="Share added to the sum; 0.1 by default.")] = None,
    project: Annotated[
        Path | None, typer.Option(help="YAML of what you state: people's work, the model's value, budgets.")
    ] = None,
    risk: Annotated[bool, typer.Option("--risk/--no-risk", help="Simulate what may go wrong.")] = True,
    ladder: Annotated[bool, typer.Option("--ladder", help="Also a ladder of model sizes.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Write plan.json, plan.md and plots into this directory.", metavar="DIR")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: the plan and its risk, nothing else.")] = False,
) -> None:
    """Show what a profile would cost, where, how long it would take, and how sure that is; spends nothing.

    Parameters, FLOPs and memory are counted, hours follow from an assumed (or calibrated) utilisation, dollars from a
    dated price list. docs/planning.md has the formulas.
    """
    from pydantic import ValidationError

    from flows.overrides import explain_validation, parse_assignments
    from flows.plan_making import PlanChoices, make_plan
    from infra.stack.settings import StackSettings

    said = {
        "budget_usd": budget_usd,
        "deadline_days": deadline_days,
        "mfu": mfu,
        "contingency": contingency,
        "providers": provider or (),
        "variants": variant or (),
        "have_reservations": have_reservations,
        "catalog": catalog,
        "project": project,
        "risk": risk,
    }
    try:
        choices = PlanChoices.model_validate(said)
    except ValidationError as error:
        raise explain_validation(error, "sam2 plan", PlanChoices) from error
    made = make_plan(profile, parse_assignments(set_ or []), choices, StackSettings.from_environment().home)
    further = made.ladder() if ladder else ()
    if output is not None:
        paths = _write(made, output, further)
    if as_json:
        from tasks.planning.presentation import plan_json

        typer.echo(plan_json(made.plan, made.risk), nl=False)
        return
    from tasks.planning.presentation import terminal_report

    console.print(terminal_report(made.plan, made.risk, further))
    if output is not None:
        console.print(f"\n{len(paths)} files in {output}: {', '.join(path.name for path in paths)}", markup=False)


def _write(made: MadePlan, output: Path, further: tuple[ReportTable, ...]) -> list[Path]:
    from tasks.planning.presentation import write_plan

    return write_plan(output, made.plan, made.findings(), further)
