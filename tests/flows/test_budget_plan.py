"""The flow `sam2-budget-plan`, without servers: what goes into MLflow, into the Prefect UI and onto the disk."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows import budget_plan as flow_module
from flows.budget_plan import budget_plan, one_line, publish, track
from flows.configuration import PipelineOverrides, ProfileName
from flows.plan_making import MadePlan, PlanChoices, make_plan
from infra.prefect_plugin import complete_name
from infra.stack.deployments import read_definitions
from infra.stack.settings import source_directory
from tasks.planning import BudgetPlan
from tasks.planning.presentation import plan_metrics, write_plan
from tasks.run_context import RunContext

CHOICES = PlanChoices(providers=("lambda",), variants=("on-demand",), budget_usd=5.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadePlan:
    return make_plan("smoke", {}, CHOICES, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Creating MLflow's tables takes seconds: done once."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: MadePlan, empty_database: bytes) -> RunContext:
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    monkeypatch.chdir(tmp_path)  # MLflow keeps artifacts beside its database
    return RunContext(
        flow_run_id="flow-1", run_name="a plan", profile="smoke", home=tmp_path / "home", artifact_root="unused",
        tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}", experiment=flow_module.EXPERIMENT,
        price=made.config.budget.price,
    )  # fmt: skip


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would be in the Prefect UI, by key."""
    found: dict[str, Any] = {}
    for name, content in (
        ("create_table_artifact", "table"),
        ("create_markdown_artifact", "markdown"),
        ("create_link_artifact", "link"),
    ):
        monkeypatch.setattr(
            flow_module, name, lambda content=content, **given: found.update({given["key"]: given[content]})
        )
    monkeypatch.setattr(flow_module, "mlflow_run_page", lambda uri, run_id: f"http://127.0.0.1:5000/#/{run_id}")
    return found


def test_mlflow_gets_choices_figures_report_and_pictures_once(made: MadePlan, run: RunContext) -> None:
    paths = write_plan(run.run_directory, made.plan)
    for _ in range(2):  # a retried run continues its record
        track(run.tracker(), made, CHOICES, paths)
    client = MlflowClient(tracking_uri=run.tracking_uri)
    experiment = client.get_experiment_by_name(flow_module.EXPERIMENT)
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["choices.budget_usd"] == "5.0"
    assert found.data.params["profile"] == "smoke"
    assert found.data.metrics == pytest.approx(plan_metrics(made.plan, made.risk))
    assert found.data.tags["sam2.kind"] == "plan"
    names = {entry.path for entry in client.list_artifacts(found.info.run_id)}
    assert {"plan.json", "plan.md", "config.json", "plots"} <= names
    plots = {entry.path for entry in client.list_artifacts(found.info.run_id, "plots")}
    assert "plots/cost-by-option.png" in plots


def test_prefect_gets_the_tables_and_a_report_without_pictures(
    made: MadePlan, run: RunContext, published: dict[str, Any]
) -> None:
    publish(run, made, made.findings())
    assert {"plan-options", "plan-stages", "plan-costs", "plan-memory", "plan-flops", "plan-report"} <= set(published)
    assert all("option" in row for row in published["plan-options"])
    assert "## Executive summary" in published["plan-report"]
    assert "![" not in published["plan-report"]
    assert published["mlflow"].endswith("flow-1")


def test_the_flow_plans_tracks_and_says_so(
    run: RunContext, published: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SAM2_HOME", str(run.home))
    monkeypatch.setattr(flow_module, "run_context", lambda config, home: run.model_copy(update={"home": home}))
    monkeypatch.setattr(flow_module, "get_run_logger", lambda: logging.getLogger("flow"))
    monkeypatch.setattr(flow_module, "track", lambda tracker, *given: tracked.append(given))
    tracked: list[Any] = []
    caplog.set_level(logging.INFO, "flow")
    state = budget_plan.fn(
        profile=ProfileName.SMOKE,
        overrides=PipelineOverrides.model_validate({"training": {"seed": 5}}),
        budget_usd=1e6,
        providers=["lambda"],
        variants=["on-demand"],
        risk=False,
    )
    assert state.is_completed()
    assert state.message.startswith("smoke: recommended $")
    assert any("FLOPs" in record.getMessage() for record in caplog.records)
    content = json.loads((run.run_directory / "plan.json").read_text())
    plan = BudgetPlan.model_validate(content["plan"])
    assert plan.request.stages[0].seed == 5
    assert plan.request.budget_usd == 1e6
    assert content["risk"] is None
    ((made, choices, paths),) = tracked
    assert made.plan == plan
    assert choices.variants == ("on-demand",)
    assert run.run_directory / "plan.md" in paths


def test_one_line_names_the_profile_and_the_answer(made: MadePlan) -> None:
    assert one_line(made).startswith("smoke: recommended $")


def test_the_deployment_has_a_bare_name() -> None:
    entrypoints = [definition["entrypoint"] for definition in read_definitions(source_directory())]
    assert "flows/budget_plan.py:budget_plan" in entrypoints
    assert complete_name(budget_plan.name) == flow_module.DEPLOYMENT
