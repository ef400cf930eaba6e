"""`prefect deployment run sam2-full-pipeline` takes the bare name; other commands are left alone."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from infra import prefect_plugin


@pytest.fixture
def server_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_plugin, "_server_answers", lambda api_url: True)


def arguments_after_plugin(monkeypatch: pytest.MonkeyPatch, *arguments: str, api_url: str | None = None) -> list[str]:
    monkeypatch.setattr(sys, "argv", list(arguments))
    prefect_plugin.setup_environment(ctx=SimpleNamespace(api_url=api_url))
    return sys.argv[1:]


@pytest.mark.usefixtures("server_up")
@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("deployment run sam2-full-pipeline", "deployment run sam2-full-pipeline/local"),
        (
            "deployment run --watch sam2-full-pipeline -p profile=tiny",
            "deployment run --watch sam2-full-pipeline/local -p profile=tiny",
        ),
        (
            "--profile sam2 deployment run sam2-full-pipeline",
            "--profile sam2 deployment run sam2-full-pipeline/local",
        ),
        ("deployment run sam2-finetune -p dry_run=true", "deployment run sam2-finetune/local -p dry_run=true"),
        ("deployment run sam2-budget-plan -p mfu=0.4", "deployment run sam2-budget-plan/local -p mfu=0.4"),
        ("deployment run sam2-full-pipeline/cloud", "deployment run sam2-full-pipeline/cloud"),
        ("deployment run another-flow/x", "deployment run another-flow/x"),
        ("deployment inspect sam2-full-pipeline", "deployment inspect sam2-full-pipeline"),
        ("deployment run", "deployment run"),
    ],
)
def test_the_bare_name_is_completed(monkeypatch: pytest.MonkeyPatch, typed: str, meant: str) -> None:
    assert arguments_after_plugin(monkeypatch, "/venv/bin/prefect", *typed.split()) == meant.split()


@pytest.mark.usefixtures("server_up")
def test_other_programs_that_import_prefect_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["deployment", "run", "sam2-full-pipeline"]
    assert arguments_after_plugin(monkeypatch, "train.py", *arguments) == arguments


@pytest.mark.parametrize("api_url", [None, "http://127.0.0.1:9/api"])
def test_without_a_server_one_line_says_how_to_start_it(monkeypatch: pytest.MonkeyPatch, api_url: str | None) -> None:
    with pytest.raises(SystemExit, match="make up"):
        arguments_after_plugin(monkeypatch, "prefect", "deployment", "run", "sam2-full-pipeline", api_url=api_url)


def test_another_deployment_needs_no_server_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments_after_plugin(monkeypatch, "prefect", "deployment", "run", "another/x", api_url="http://127.0.0.1:9/api")
