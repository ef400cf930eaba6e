"""The `sam2` commands of the model registry: versions, promote, rollback, compare, lineage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

if TYPE_CHECKING:
    from tasks.registration.ancestry import Ancestor, Ancestry
    from tasks.registration.comparison import Comparison

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
EXIT_DAMAGED = 1
console = Console(highlight=False)

Name = Annotated[str, typer.Argument(help="A registered model.", metavar="NAME")]
_STATE_STYLES = {"intact": "green", "rebuilt": "yellow", "damaged": "bold red", "missing": "red"}
_VERDICT_STYLES = {"better": "green", "worse": "red", "passed": "green", "failed": "red"}


def add_registry_commands(app: typer.Typer) -> None:
    """Put the commands into the `sam2` command line."""
    for command in (versions, promote, rollback, compare, lineage):
        app.command()(command)


def versions(
    name: Annotated[str | None, typer.Argument(help="A registered model; by default all.", metavar="[NAME]")] = None,
) -> None:
    """List the registered versions: who is champion, what each measured, and why it is or is not champion."""
    from infra.errors import ConfigurationError
    from tasks.registration.versions import all_versions, open_registry

    client = open_registry(_tracking_uri())
    models = {model.name: model for model in client.search_registered_models()}
    if name is not None and name not in models:
        known = ", ".join(sorted(models)) or "nothing: no model is registered"
        raise ConfigurationError(f"no model is registered as '{name}'.", f"choose one of: {known}.")
    if not models:
        _say("No model is registered yet: `sam2 run` makes and registers one.")
    for model in [models[name]] if name else sorted(models.values(), key=lambda one: one.name):
        console.print(_versions_table(model.name, all_versions(client, model.name), model.aliases))


def promote(
    name: Name,
    version: Annotated[str, typer.Argument(help="A version's number or alias.")],
    anyway: Annotated[bool, typer.Option("--anyway", help="Also against the evidence; needs --reason.")] = False,
    reason: Annotated[str, typer.Option(help="Why; kept with the version.")] = "",
) -> None:
    """Make a version champion; refused when it missed a gate or is worse than the champion, unless you say why."""
    from tasks.registration.champion import PromotionRefused
    from tasks.registration.champion import promote as promote_version
    from tasks.registration.evidence import gate_rows
    from tasks.registration.versions import get_version, open_registry

    uri = _tracking_uri()
    try:
        promoted = promote_version(uri, name, version, anyway=anyway, reason=reason)
    except PromotionRefused as refusal:
        client = open_registry(uri)
        rows = gate_rows(client, get_version(client, name, version))
        if rows:
            console.print(_rows_table("Gates", rows))
        if refusal.comparison is not None:
            show_comparison(refusal.comparison)
        raise
    _say(f"{promoted.name} version {promoted.version} is champion. {promoted.note}")


def rollback(name: Name) -> None:
    """Return to the champion before the present one, which is never promoted by itself again."""
    from tasks.registration.champion import rollback as roll_back

    found = roll_back(_tracking_uri(), name)
    _say(f"{found.name} version {found.version} is champion again.")


def compare(
    name: Name,
    candidate: Annotated[str, typer.Argument(help="A version's number or alias.", metavar="A")],
    champion: Annotated[str, typer.Argument(help="The version to compare it with.", metavar="B")],
    output: Annotated[
        Path | None, typer.Option(help="Directory of the report; by default below SAM2_HOME/comparisons.")
    ] = None,
) -> None:
    """Compare version A with version B, item by item: differences, intervals, verdicts, and a report to open."""
    from tasks.registration.champion import gather
    from tasks.registration.comparison_report import PAGE, write_comparison
    from tasks.registration.versions import get_version, open_registry

    client = open_registry(_tracking_uri())
    first, second = (get_version(client, name, which) for which in (candidate, champion))
    evidence = gather(client, first, second)
    show_comparison(evidence.comparison)
    home = _home() / "comparisons" / f"{name}-{first.version}-against-{second.version}"
    directory = output or home
    directory.mkdir(parents=True, exist_ok=True)
    write_comparison(directory, evidence.comparison)
    _say(f"{directory / PAGE}")
    if evidence.unreadable:
        raise typer.Exit(EXIT_DAMAGED)


def lineage(
    what: Annotated[
        str,
        typer.Argument(help="NAME@ALIAS, NAME/VERSION, models:/NAME@ALIAS, KIND/FINGERPRINT or a bundle's directory."),
    ],
    store: Annotated[
        list[str] | None, typer.Option(help="Where artifacts are, besides SAM2_HOME/artifacts; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Walk from a model back to its sources, checking every manifest and file on the way.

    Exits with 1 when something on the way is damaged.
    """
    from tasks.registration.ancestry import State
    from tasks.registration.lineage_target import find_lineage

    found = find_lineage(what, [*(store or []), str(_home() / "artifacts")], _tracking_uri)
    if as_json:
        console.print_json(data=found.as_json())
    else:
        console.print(_tree(found.title, found.facts, found.ancestry))
        _say(_counts(found.ancestry))
    if found.ancestry.in_state(State.DAMAGED):
        raise typer.Exit(EXIT_DAMAGED)


def _tracking_uri() -> str:
    """MLFLOW_TRACKING_URI where it is set, else the running stack's MLflow; raises StackNotRunning without either."""
    named = os.environ.get(TRACKING_VARIABLE)
    if named:
        return named
    from infra.stack import StackSettings, running_state

    return running_state(StackSettings.from_environment()).mlflow_url


def _home() -> Path:
    from infra.stack import StackSettings

    return StackSettings.from_environment().home


def _versions_table(name: str, found: list[Any], aliases: dict[str, Any]) -> Table:
    from datetime import UTC, datetime

    from tasks.registration.versions import GATES, note_of

    table = Table(title=f"{name}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("version", "aliases", "gates", "bits/byte", "recall", "formats", "MB", "created (UTC)"):
        table.add_column(heading, justify="right" if heading in ("bits/byte", "recall", "MB") else "left")
    table.add_column("note", overflow="fold", ratio=1)
    for version in found:
        tags = version.tags
        held = sorted(alias for alias, number in aliases.items() if str(number) == str(version.version))
        created = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
        table.add_row(
            str(version.version), ", ".join(held), tags.get(GATES, "-"), tags.get("sam2.bits_per_byte", "-"),
            tags.get("sam2.recall", "-"), tags.get("sam2.formats", "-"), tags.get("sam2.size_mb", "-"),
            f"{created:%Y-%m-%d %H:%M}", escape(note_of(version, "champion" in held)),
            style="bold" if "champion" in held else "",
        )  # fmt: skip
    return table


def show_comparison(comparison: Comparison) -> None:
    """The table of two models, item by item."""
    from tasks.registration.comparison_report import comparison_rows, uncompared_rows

    if comparison.metrics:
        console.print(_rows_table(f"{comparison.candidate} against {comparison.champion}", comparison_rows(comparison)))
    if comparison.uncompared:
        console.print(_rows_table("Not compared", uncompared_rows(comparison)))
    _say(comparison.sentence)


def _rows_table(title: str, rows: list[dict[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in names:
        numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in names))
    return table


def _cell(value: Any) -> Text:
    text = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return Text(text, style=_VERDICT_STYLES.get(text, ""))


def _tree(title: str, facts: dict[str, str], ancestry: Ancestry) -> Tree:
    """Every artifact once in full; where it is an input again, by name only."""
    tree = Tree(Text(title, style="bold"), guide_style="dim")
    if facts:
        tree.add(Text(f"aliases {facts['aliases'] or 'none'} · {facts['note']}"))
    shown: set[str] = set()

    def add(parent: Tree, role: str, reference: str) -> None:
        one = ancestry.ancestors[reference]
        if reference in shown:
            parent.add(Text(f"{role}{_short(reference)}, above", style="dim"))
            return
        shown.add(reference)
        branch = parent.add(_label(role, one))
        for row in one.sources:
            branch.add(_source(row))
        for name, source in one.inputs.items():
            add(branch, f"{name}: ", source)

    add(tree, "", ancestry.root)
    return tree


def _label(role: str, one: Ancestor) -> Text:
    from tasks.reporting.formatting import dollars, number

    label = Text(f"{role}{_short(one.reference)} ").append(one.state.value, style=_STATE_STYLES[one.state.value])
    if one.problem:
        label.append(f": {one.problem}", style=_STATE_STYLES[one.state.value])
    if one.manifest is not None:
        manifest = one.manifest
        figures = "".join(f" · {name.partition('/')[2]} {number(value)}" for name, value in one.figures.items())
        label.append(
            f"\n{manifest.stage} v{manifest.stage_version} · {manifest.created_at} · "
            f"{manifest.cost.seconds:,.0f} s, {dollars(manifest.cost.usd)} · code {manifest.code_version}{figures}",
            style="dim",
        )
    return label


def _source(row: dict[str, Any]) -> Text:
    read = "" if row["documents"] is None else f" · {row['documents']:,} documents, {row['bytes']:,} bytes"
    revision = f" · {row['revision']}" if row["revision"] else ""
    return Text(f"{row['name']} ").append(f"{row['uri']} · {row['licence']}{revision}{read}", style="cyan")


def _short(reference: str) -> str:
    kind, _, fingerprint = reference.partition("/")
    return f"{kind}/{fingerprint[:12]}"


def _counts(ancestry: Ancestry) -> str:
    from tasks.registration.ancestry import State

    found = {state.value: len(ancestry.in_state(state)) for state in State}
    told = ", ".join(f"{count} {state}" for state, count in found.items() if count)
    return f"{len(ancestry.ancestors)} artifacts: {told}."


def _say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
