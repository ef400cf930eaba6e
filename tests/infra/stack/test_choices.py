"""Settings, ports, publication, deployments: what is decided before any server starts."""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.processes import ProcessIdentity
from infra.stack import DeploymentFailed, HostNotLoopback, PortTaken, StackError, StackSettings
from infra.stack.deployments import load_deployments, read_definitions
from infra.stack.ports import choose_port, port_holder
from infra.stack.publication import publish, withdraw
from infra.stack.state import Phase, StackState, read_state, state_path, write_state

API_URL = "http://127.0.0.1:4207/api"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def settings(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> StackSettings:
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "profiles.toml"))
    return StackSettings(home=tmp_path / "home", project=project)


def test_the_home_is_in_the_project_unless_chosen(tmp_path: Path) -> None:
    inside = StackSettings.from_environment({"SAM2_PROJECT": str(tmp_path)})
    assert inside.home == tmp_path / ".sam2"
    chosen = StackSettings.from_environment({"SAM2_PROJECT": str(tmp_path), "SAM2_HOME": str(tmp_path / "x")})
    assert chosen.home == tmp_path / "x"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.org", "::"])
def test_an_address_others_can_reach_is_refused(host: str) -> None:
    with pytest.raises(HostNotLoopback, match="ssh -L"):
        StackSettings.from_environment({"SAM2_HOST": host})


def test_localhost_is_loopback() -> None:
    assert StackSettings.from_environment({"SAM2_HOST": "localhost"}).host == "127.0.0.1"


def test_a_port_that_is_no_number_is_named() -> None:
    with pytest.raises(StackError, match="SAM2_MLFLOW_PORT"):
        StackSettings.from_environment({"SAM2_MLFLOW_PORT": "fivethousand"})


def test_a_taken_default_gives_the_next_free_port(taken_port: int) -> None:
    assert choose_port("127.0.0.1", None, taken_port, "SAM2_PREFECT_PORT") > taken_port


def test_a_taken_port_that_was_asked_for_is_an_error_naming_its_holder(taken_port: int) -> None:
    with pytest.raises(PortTaken) as caught:
        choose_port("127.0.0.1", taken_port, 4200, "SAM2_PREFECT_PORT")
    message = str(caught.value)
    assert str(taken_port) in message
    assert str(os.getpid()) in message
    assert "SAM2_PREFECT_PORT=" in message
    assert port_holder(taken_port) is not None


def test_the_two_servers_never_get_one_port() -> None:
    first = choose_port("127.0.0.1", None, 20_000, "a")
    assert choose_port("127.0.0.1", None, first, "b", frozenset({first})) != first


def test_state_survives_its_file_and_a_dead_supervisor_is_not_running(settings: StackSettings) -> None:
    own = ProcessIdentity.of(os.getpid())
    assert own is not None
    state = StackState(
        stack_id=settings.stack_id,
        supervisor_pid=own.pid,
        supervisor_create_time=own.create_time,
        host="127.0.0.1",
        prefect_port=4200,
        mlflow_port=5000,
        phase=Phase.READY,
    )
    write_state(settings, state)
    assert read_state(settings) == state
    assert state.is_running()
    assert not state.model_copy(update={"supervisor_create_time": own.create_time - 50}).is_running()


def test_a_damaged_state_file_reads_as_none(settings: StackSettings) -> None:
    state_path(settings).parent.mkdir(parents=True)
    state_path(settings).write_text('{"stack_id": "x"')
    assert read_state(settings) is None


def test_publishing_and_withdrawing_leaves_nothing_active(settings: StackSettings, tmp_path: Path) -> None:
    profiles = tmp_path / "profiles.toml"
    assert publish(settings, API_URL) == []
    assert tomllib.loads((settings.project / "prefect.toml").read_text()) == {"api": {"url": API_URL}}
    assert tomllib.loads(profiles.read_text())["active"] == "sam2"
    withdraw(settings, API_URL)
    assert not (settings.project / "prefect.toml").exists()
    assert tomllib.loads(profiles.read_text())["active"] == "ephemeral"


def test_a_users_own_settings_are_left_alone(settings: StackSettings, tmp_path: Path) -> None:
    profiles = tmp_path / "profiles.toml"
    profiles.write_text('active = "work"\n[profiles.work]\nPREFECT_API_URL = "http://example.org/api"\n')
    (settings.project / "prefect.toml").write_text('[api]\nurl = "http://example.org/api"\n')
    notes = publish(settings, API_URL)
    assert len(notes) == 2
    content = tomllib.loads(profiles.read_text())
    assert content["active"] == "work"
    assert content["profiles"]["work"] == {"PREFECT_API_URL": "http://example.org/api"}
    withdraw(settings, API_URL)
    assert "example.org" in (settings.project / "prefect.toml").read_text()


def test_the_file_of_another_stack_is_not_withdrawn(settings: StackSettings) -> None:
    publish(settings, API_URL)
    withdraw(settings, "http://127.0.0.1:4300/api")
    assert (settings.project / "prefect.toml").exists()


def test_the_shipped_prefect_yaml_names_the_flows(settings: StackSettings) -> None:
    definitions = read_definitions(settings.project)
    entrypoints = [definition["entrypoint"] for definition in definitions]
    assert entrypoints == [
        "flows/full_pipeline.py:full_pipeline",
        "flows/finetune.py:finetune",
        "flows/budget_plan.py:budget_plan",
    ]
    for definition in definitions:
        assert definition["work_pool"] == {"name": "local"}
        step = definition["pull"][0]["prefect.deployments.steps.set_working_directory"]
        assert step == {"directory": str(settings.project)}


def test_an_entrypoint_that_does_not_exist_is_named(settings: StackSettings) -> None:
    (settings.project / "flows" / "full_pipeline.py").unlink()
    with pytest.raises(DeploymentFailed, match=r"flows/full_pipeline\.py:full_pipeline"):
        load_deployments(settings)


def test_a_flow_that_cannot_be_imported_tells_its_cause(settings: StackSettings) -> None:
    (settings.project / "flows" / "full_pipeline.py").write_text("raise ValueError('no such preset')")
    with pytest.raises(DeploymentFailed, match="no such preset"):
        load_deployments(settings)


def test_a_project_without_prefect_yaml_is_told_how_to_be_found(settings: StackSettings) -> None:
    (settings.project / "prefect.yaml").unlink()
    with pytest.raises(DeploymentFailed, match="SAM2_PROJECT"):
        load_deployments(settings)
