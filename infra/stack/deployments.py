"""Applies `prefect.yaml` through Prefect's Python API: one import of Prefect instead of three commands.

`prefect deploy --all` reads the same file and gives the same result; it costs 3 seconds more.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from infra.stack.errors import DeploymentFailed
from infra.stack.settings import WORK_POOL, StackSettings

# `prefect deploy` is typed in the project folder, where the shell's PWD is that folder; we may be elsewhere.
PROJECT_PLACEHOLDER = "{{ $PWD }}"
SOURCE_FOLDERS = ("flows", "tasks", "model", "infra")


def apply_deployments(settings: StackSettings, api_url: str) -> list[str]:
    """Create or update the work pool and every deployment of `prefect.yaml`; their names as `flow/deployment`.

    Does nothing when neither the file nor any source has changed since the last time on this database.

    Raises:
        DeploymentFailed: the file, a flow it names, or the server refuses.
    """
    record = settings.stack_directory / "deployments.json"
    digest = _sources_digest(settings.project)
    done = _read_record(record)
    if done.get("digest") == digest and done.get("api_url") == api_url:
        return list(done["names"])
    definitions = read_definitions(settings.project)
    try:
        names = _apply(settings.project, definitions, api_url)
    except DeploymentFailed:
        raise
    except Exception as error:  # flows run arbitrary code when loaded: whatever it raises names the cause
        raise DeploymentFailed(
            f"prefect.yaml could not be applied: {type(error).__name__}: {error}.",
            "correct it, then check with `prefect deploy --all` in the project folder.",
        ) from error
    record.write_text(json.dumps({"digest": digest, "api_url": api_url, "names": names}), encoding="utf-8")
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
        raise DeploymentFailed(f"{path} does not exist.", "run inside the project, or set SAM2_PROJECT to it.") from error
    content = yaml.safe_load(text.replace(PROJECT_PLACEHOLDER, str(project)))
    definitions = content.get("deployments") if isinstance(content, dict) else None
    if not definitions:
        raise DeploymentFailed(f"{path} lists no deployments.", "restore it from version control.")
    return list(definitions)


def _sources_digest(project: Path) -> str:
    """Changes when any source changes: a deployment stores the parameter form, which any config class can alter."""
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


def _apply(project: Path, definitions: list[dict[str, Any]], api_url: str) -> list[str]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        _ensure_work_pool(client)
        return [_apply_one(client, project, definition) for definition in definitions]


def _ensure_work_pool(client: Any) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    try:
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
    except ObjectAlreadyExists:  # kept as it is: the worker made it, or the user changed its settings
        return


def _apply_one(client: Any, project: Path, definition: dict[str, Any]) -> str:
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    entrypoint = definition["entrypoint"]
    if not (project / entrypoint.partition(":")[0]).exists():
        raise DeploymentFailed(
            f"prefect.yaml: deployments.{definition['name']}.entrypoint names {entrypoint}, which does not exist.",
            "correct the entrypoint or restore the file.",
        )
    flow = load_flow_from_entrypoint(str(project / entrypoint), use_placeholder_flow=False)
    pool = definition.get("work_pool") or {}
    client.create_deployment(
        flow_id=client.create_flow_from_name(flow.name),
        name=definition["name"],
        version=definition.get("version"),
        description=definition.get("description") or flow.description,
        tags=definition.get("tags") or [],
        parameters=definition.get("parameters") or {},
        work_pool_name=pool.get("name", WORK_POOL),
        work_queue_name=pool.get("work_queue_name"),
        job_variables=pool.get("job_variables") or {},
        entrypoint=entrypoint,
        pull_steps=definition.get("pull") or [],
        parameter_openapi_schema=parameter_schema(flow).model_dump(),
        enforce_parameter_schema=definition.get("enforce_parameter_schema", True),
    )
    return f"{flow.name}/{definition['name']}"
