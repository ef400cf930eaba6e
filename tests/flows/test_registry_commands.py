"""The registry's commands, on a registry of hand-made versions: what they print, refuse and record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from typer.testing import CliRunner

from flows import registry_commands
from flows.command_line import app
from infra.errors import ConfigurationError
from infra.stack import StackNotRunning
from tasks.evaluation.items import ItemScores, item_key, write_items
from tasks.registration.champion import PromotionRefused
from tasks.registration.versions import GATES, GATES_PASSED, MISSED, PROMOTION

GATE_ROWS = [{"metric": "eval/loss", "condition": "finite", "threshold": None, "value": 3.2, "verdict": "failed"}]


def add_version(client: MlflowClient, right: int, *, passed: bool = True, items: bool = True) -> str:
    """A version whose copied bundle has an evaluation that got `right` of 200 questions right."""
    experiment = client.get_experiment_by_name("sam2-registration")
    assert experiment is not None
    run = client.create_run(experiment.experiment_id)
    place = Path(experiment.artifact_location) / run.info.run_id / "artifacts" / "model"
    evidence = place / "artifacts" / "bundle" / "evaluation"
    evidence.mkdir(parents=True)
    flavor = {"artifacts": {"bundle": {"path": "artifacts/bundle", "uri": "gone"}}, "config": {}, "loader_module": "x"}
    (place / "MLmodel").write_text(yaml.safe_dump({"flavors": {"python_function": flavor}}))
    (evidence / "evaluation.json").write_text(json.dumps({"gates": GATE_ROWS}))
    if items:
        keys = tuple(item_key(str(number)) for number in range(200))
        answers = (np.arange(200) < right).astype(float)
        write_items(evidence / "items.parquet", [ItemScores("piqa", "accuracy", True, keys, answers, np.ones(200))])
    tags = {GATES_PASSED: str(passed).lower(), GATES: f"{int(passed)} of 1 passed", "sam2.bits_per_byte": "2.4000"}
    if not passed:
        tags |= {MISSED: "eval/loss is 3.2, must be finite", PROMOTION: "It is not champion: not every gate passed."}
    return str(client.create_model_version("tiny", str(place), run.info.run_id, tags=tags).version)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Creating MLflow's tables takes seconds: done once."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture
def client(empty_database: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("SAM2_HOME", str(tmp_path / "home"))
    # Both, or a worker's terminal, which may be a dumb one, decides.
    monkeypatch.setattr(registry_commands.console, "_width", 200)
    monkeypatch.setattr(registry_commands.console, "_height", 50)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_experiment("sam2-registration", artifact_location=str(tmp_path / "files"))
    client.create_registered_model("tiny")
    return client


def run(*arguments: str) -> str:
    """What a command that succeeds prints; raises what ends it."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.stdout
    return result.stdout


def champion(client: MlflowClient) -> str:
    return str(client.get_model_version_by_alias("tiny", "champion").version)


def test_versions_are_listed_newest_first_with_their_notes(client: MlflowClient) -> None:
    client.set_registered_model_alias("tiny", "champion", add_version(client, 100))
    add_version(client, 120, passed=False)
    lines = run("versions", "tiny").splitlines()
    rows = [line for line in lines if line.startswith(("1 ", "2 "))]
    assert [row.split()[0] for row in rows] == ["2", "1"] and "champion" in rows[1] and "2.4000" in rows[1]
    assert "0 of 1 passed" in rows[0] and "not every gate passed" in " ".join(lines)
    assert "tiny" in run("versions")
    with pytest.raises(ConfigurationError, match="choose one of: tiny"):
        run("versions", "other")


def test_a_promotion_against_the_evidence_shows_it_and_is_refused(client: MlflowClient) -> None:
    client.set_registered_model_alias("tiny", "champion", add_version(client, 130))
    add_version(client, 90, passed=False)
    refused = CliRunner().invoke(app, ["promote", "tiny", "2"])
    assert isinstance(refused.exception, PromotionRefused)
    assert "eval/loss is 3.2, must be finite; worse in piqa/accuracy -0.2" in str(refused.exception)
    assert all(word in refused.stdout for word in ("eval/loss", "failed", "piqa/accuracy", "worse"))
    assert champion(client) == "1"


def test_anyway_needs_a_reason_and_keeps_it(client: MlflowClient) -> None:
    client.set_registered_model_alias("tiny", "champion", add_version(client, 130))
    add_version(client, 90)
    with pytest.raises(ConfigurationError, match="--reason"):
        run("promote", "tiny", "2", "--anyway")
    said = run("promote", "tiny", "2", "--anyway", "--reason", "a smaller model is wanted")
    assert "tiny version 2 is champion." in said and "against the evidence" in said
    tags = client.get_model_version("tiny", "2").tags
    assert tags["sam2.promoted_anyway_reason"] == "a smaller model is wanted" and "@" in tags["sam2.promoted_anyway_by"]
    assert run("rollback", "tiny") == "tiny version 1 is champion again.\n"
    assert champion(client) == "1"


def test_compare_prints_the_table_and_writes_the_report(client: MlflowClient, tmp_path: Path) -> None:
    client.set_registered_model_alias("tiny", "champion", add_version(client, 100))
    add_version(client, 130)
    said = run("compare", "tiny", "2", "champion", "--output", str(tmp_path / "report"))
    row = next(line for line in said.splitlines() if line.startswith("piqa/accuracy"))
    assert row.split()[2:6] == ["200", "0.65", "0.5", "0.15"] and row.split()[-1] == "better"
    assert "Against tiny version 1: better in 1, worse in 0, no difference shown in 0 of 1 metric." in said
    assert (tmp_path / "report" / "comparison.html").is_file()
    run("compare", "tiny", "1", "2")
    assert (tmp_path / "home" / "comparisons" / "tiny-1-against-2" / "comparison.md").is_file()


def test_a_version_without_items_is_not_compared(client: MlflowClient) -> None:
    add_version(client, 100)
    add_version(client, 100, items=False)
    assert "the bundle of tiny version 2 has no results item by item" in run("compare", "tiny", "1", "2")


def test_lineage_of_a_foreign_version_says_what_it_lacks(client: MlflowClient) -> None:
    add_version(client, 100)
    with pytest.raises(ConfigurationError, match="was not registered by this pipeline"):
        run("lineage", "tiny/1")


def test_without_a_tracking_server_the_running_stack_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SAM2_HOME", str(tmp_path))
    with pytest.raises(StackNotRunning):
        run("versions")


def test_the_module_imports_nothing_heavy() -> None:
    """`sam2 --help` is instant: the commands import what they need when they are called."""
    code = "import sys, flows.registry_commands; print([m for m in ('mlflow', 'torch', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
