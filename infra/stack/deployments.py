"""Applies `prefect.yaml` through Prefect's Python API: one import of Prefect instead of three commands.

`prefect deploy --all` reads the same file and gives the same result; it costs 3 seconds more.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from infra.stack.errors import DeploymentFailed
from infra.stack.settings import WORK_POOL, StackSettings
from infra.stack.web import ServerRefused, request_json

# `prefect deploy` is typed in the project folder, where the shell's PWD is that folder; we may be elsewhere.
PROJECT_PLACEHOLDER = "{{ $PWD }}"
SOURCE_FOLDERS = ("flows", "tasks", "model", "infra")


@dataclass(frozen=True)
class LoadedDeployment:
    """A deployment of `prefect.yaml` with its flow imported."""

    definition: dict[str, Any]
    flow: Any

    @property
    def name(self) -> str:
        return f"{self.flow.name}/{self.definition['name']}"


@dataclass(frozen=True)
class DeploymentPlan:
    """What there is to apply: nothing when neither `prefect.yaml` nor a source changed since the last time."""

    record: Path
    digest: str
    known_names: list[str]
    to_apply: list[LoadedDeployment]


def load_deployments(settings: StackSettings, *, even_unchanged: bool = False) -> DeploymentPlan:
    """Import the flows of `prefect.yaml`, which needs no server and so is done while the servers start.

    Raises:
        DeploymentFailed: the file is absent or wrong, or a flow cannot be imported.
    """
    record = settings.stack_directory / "deployments.json"
    digest = _sources_digest(settings.project)
    done = _read_record(record)
    if done.get("digest") == digest and not even_unchanged:
        return DeploymentPlan(record, digest, list(done["names"]), [])
    definitions = read_definitions(settings.project)
    return DeploymentPlan(record, digest, [], [_load(settings.project, definition) for definition in definitions])


def are_on_server(names: list[str], api_url: str) -> bool:
    """Whether the server knows every deployment: its database may have been replaced since they were applied.

    Raises:
        ServerUnreachable: it does not answer.
    """
    try:
        for name in names:
            request_json("GET", f"{api_url}/deployments/name/{quote(name)}")
    except ServerRefused:
        return False
    return True


def apply_deployments(plan: DeploymentPlan, api_url: str) -> list[str]:
    """Create or update the work pool and the planned deployments; the names of all, as `flow/deployment`.

    Raises:
        DeploymentFailed: the server refuses one.
    """
    if not plan.to_apply:
        return plan.known_names
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL, temporary_settings

    try:
        with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
            _ensure_work_pool(client)
            for deployment in plan.to_apply:
                _create(client, deployment)
    except PrefectHTTPStatusError as error:
        raise DeploymentFailed(
            f"The server refused a deployment of prefect.yaml: {error}.", "correct what the answer names."
        ) from error
    names = [deployment.name for deployment in plan.to_apply]
    plan.record.write_text(json.dumps({"digest": plan.digest, "names": names}), encoding="utf-8")
    return names


def read_definitions(project: Path) -> list[dict[str, Any]]:
    """The deployments in `prefect.yaml`, with the project folder filled in.

    Raises:
        DeploymentFailed: the file is absent or has no deployments.
    """
    path = project / "prefect.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DeploymentFailed(f"{path} does not exist.", "set SAM2_PROJECT to the folder that has it.") from error
    content = yaml.safe_load(text.replace(PROJECT_PLACEHOLDER, str(project)))
    definitions = content.get("deployments") if isinstance(content, dict) else None
    if not definitions:
        raise DeploymentFailed(f"{path} lists no deployments.", "restore it from version control.")
    return list(definitions)


def _sources_digest(project: Path) -> str:
    """Changes when any source does: a deployment stores the parameter form, which any config can alter."""
    digest = hashlib.sha256()
    for path in sorted([project / "prefect.yaml", *_source_files(project)]):
        if path.exists():
            status = path.stat()
            digest.update(f"{path}:{status.st_size}:{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _source_files(project: Path) -> list[Path]:
    return [path for folder in SOURCE_FOLDERS for path in (project / folder).glob("**/*.py")]


def _read_record(record: Path) -> dict[str, Any]:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _load(project: Path, definition: dict[str, Any]) -> LoadedDeployment:
    from prefect.flows import load_flow_from_entrypoint

    entrypoint = definition["entrypoint"]
    where = f"prefect.yaml: the entrypoint {entrypoint} of deployment {definition['name']!r}"
    if not (project / entrypoint.rpartition(":")[0]).exists():
        raise DeploymentFailed(f"{where} does not exist.", "correct the entrypoint or restore the file.")
    try:
        flow: Any = load_flow_from_entrypoint(str(project / entrypoint), use_placeholder_flow=False)
    except Exception as error:  # a flow's module runs any code: whatever it raises names the cause
        cause = error.__cause__ or error
        raise DeploymentFailed(
            f"{where} cannot be imported: {type(cause).__name__}: {cause}.",
            f"correct it until `python {entrypoint.rpartition(':')[0]}` runs in {project}.",
        ) from error
    return LoadedDeployment(definition, flow)


def _ensure_work_pool(client: Any) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    try:
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
    except ObjectAlreadyExists:  # kept as it is: the worker made it, or the user changed its settings
        return


def _create(client: Any, deployment: LoadedDeployment) -> None:
    from prefect.utilities.callables import parameter_schema

    definition = deployment.definition
    pool = definition.get("work_pool") or {}
    client.create_deployment(
        flow_id=client.create_flow_from_name(deployment.flow.name),
        name=definition["name"],
        version=definition.get("version"),
        description=definition.get("description") or deployment.flow.description,
        tags=definition.get("tags") or [],
        parameters=definition.get("parameters") or {},
        work_pool_name=pool.get("name", WORK_POOL),
        work_queue_name=pool.get("work_queue_name"),
        job_variables=pool.get("job_variables") or {},
        entrypoint=definition["entrypoint"],
        pull_steps=definition.get("pull") or [],
        parameter_openapi_schema=parameter_schema(deployment.flow).model_dump(),
        enforce_parameter_schema=definition.get("enforce_parameter_schema", True),
    )
