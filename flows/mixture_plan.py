"""What a profile's mixture would fetch, before anything is fetched: `python -m flows.mixture_plan PROFILE`."""

from __future__ import annotations

from infra.quiet import apply_quiet_environment

apply_quiet_environment()

from typing import Annotated, Any  # noqa: E402 (the quiet environment comes before anything that might read it)

import typer  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from flows.configuration import PipelineConfig, load_profile  # noqa: E402
from infra.errors import ConfigurationError, PipelineError  # noqa: E402
from tasks.download.mixture import plan_mixture, plan_rows, training_demand  # noqa: E402

#: How far what the curriculum draws of a source may exceed what the mixture plans for it.
_TOLERANCE = 0.01


def mixture_plan(config: PipelineConfig) -> list[dict[str, Any]]:
    """The rows of the plan.

    Raises ConfigurationError when the profile has no mixture, when a source is too small for its weight, and when the
    curriculum draws more of a source than the mixture plans.
    """
    mixture = config.download.mixture
    if mixture is None:
        raise ConfigurationError(
            f"profile '{config.profile}' has no download.mixture.", "choose a profile with one, or write it."
        )
    planned = plan_mixture(config.download.sources, mixture)
    demand = training_demand((stage.tokens * stage.repeat, stage.mixture) for stage in config.curriculum)
    owed = {entry.source.name: entry.training_tokens for entry in planned}
    for name, tokens in demand.items():
        planned_tokens = owed.get(name, 0.0)
        if tokens > planned_tokens * (1 + _TOLERANCE):
            raise ConfigurationError(
                f"the curriculum draws {tokens:,.0f} tokens of '{name}', download.mixture plans {planned_tokens:,.0f}.",
                "raise its weight or `tokens` in download.mixture, or lower it in curriculum[].mixture.",
            )
    return plan_rows(planned)


def main(profile: Annotated[str, typer.Argument(help="A profile of flows/profiles/, by name.")]) -> None:
    """Show source, weight, tokens, epochs and bytes to fetch."""
    console = Console()
    try:
        rows = mixture_plan(load_profile(profile))
    except PipelineError as error:
        Console(stderr=True).print(f"mixture_plan: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    notes = [(row["Source"], row["Note"]) for row in rows if row["Note"]]
    table = Table(*(name for name in rows[0] if name not in ("Note", "Licence")), box=None)
    for row in rows:
        table.add_row(*(str(value) for name, value in row.items() if name not in ("Note", "Licence")))
    console.print(table)
    for name, note in notes:
        console.print(f"{name}: {note}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
