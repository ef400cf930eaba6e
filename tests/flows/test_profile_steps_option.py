"""`sam2 run --profile-steps`: a field of the run's overrides like any other, checked before anything starts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import command_line
from infra.errors import ConfigurationError
from infra.stack.runs import PrefectRuns


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    monkeypatch.setattr(command_line, "_ensure_stack", lambda settings: SimpleNamespace(prefect_api_url="http://x"))
    monkeypatch.setattr(command_line, "_tell_of_earlier_run", lambda runs, profile: None)
    monkeypatch.setattr(command_line, "_follow", lambda *arguments: None)
    monkeypatch.setattr(PrefectRuns, "submit", lambda self, given: parameters.append(given))
    return parameters


def test_it_joins_the_other_overrides(submitted: list[dict[str, Any]]) -> None:
    arguments = ["run", "--profile-steps", "10,50-52", "--set", "training.seed=3"]
    result = CliRunner().invoke(command_line.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert submitted == [
        {"profile": "smoke", "overrides": {"training": {"seed": 3, "profile_steps": "10,50-52"}}},
    ]


def test_a_mistake_is_told_before_any_server_is_asked(submitted: list[dict[str, Any]]) -> None:
    result = CliRunner().invoke(command_line.app, ["run", "--profile-steps", "52-50"])
    assert isinstance(result.exception, ConfigurationError)
    assert "'training.profile_steps'" in str(result.exception) and submitted == []
