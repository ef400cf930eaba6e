"""`sam2 audit`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flows.audit_commands import REPORT, add_audit_commands
from infra.errors import ConfigurationError
from tasks.audit import Audit, run_audit


@pytest.fixture(scope="module")
def found() -> Audit:
    return run_audit()


@pytest.fixture(autouse=True)
def audited_once(found: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of the command computes the same: seconds that need not be spent again."""
    monkeypatch.setattr("tasks.audit.run_audit", lambda: found)


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    built = typer.Typer()
    add_audit_commands(built)
    built.command("other")(lambda: None)  # with one command alone typer has no subcommands
    return built


def test_it_writes_the_committed_report_and_then_finds_it_current(app: typer.Typer, tmp_path: Path) -> None:
    written = tmp_path / "audit.md"
    result = CliRunner().invoke(app, ["audit", "--output", str(written)])
    assert result.exit_code == 0, result.output
    assert "inconsistent" in result.output
    assert written.read_text(encoding="utf-8") == REPORT.read_text(encoding="utf-8")
    assert CliRunner().invoke(app, ["audit", "--check", "--output", str(written)]).exit_code == 0


@pytest.mark.parametrize("content", [None, "", "# edited by hand\n"])
def test_a_stale_report_fails_and_is_left_alone(app: typer.Typer, tmp_path: Path, content: str | None) -> None:
    stale = tmp_path / "audit.md"
    if content is not None:
        stale.write_text(content)
    result = CliRunner().invoke(app, ["audit", "--check", "--output", str(stale)])
    assert result.exit_code != 0
    assert isinstance(result.exception, ConfigurationError)
    assert "run `sam2 audit`" in str(result.exception)
    assert (stale.read_text() if stale.exists() else None) == content


def test_programs_get_json_and_nothing_is_written(app: typer.Typer, tmp_path: Path) -> None:
    output = tmp_path / "audit.md"
    result = CliRunner().invoke(app, ["audit", "--json", "--output", str(output)])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["counts"]["wrong"] > 100
    assert not output.exists()
