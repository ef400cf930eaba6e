"""The MLflow registry: one version a bundle, aliases that say which one to use, and the way back.

`candidate` is the newest version. `champion` moves only to a version whose gates all passed, and
remembers the one before it; `rollback` returns to that one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException, RestException

from infra.artifacts import Artifact
from infra.errors import ConfigurationError, PipelineError
from tasks.registration.gates import Decision, decide
from tasks.registration.packaging import save_mlflow_model
from tasks.registration.version import RegisteredVersion

CANDIDATE, CHAMPION = "candidate", "champion"
FINGERPRINT = "sam2.fingerprint"
PREVIOUS = "sam2.previous_champion"
ROLLED_BACK = "sam2.rolled_back"
GATES_PASSED = "sam2.gates_passed"
MISSED = "sam2.missed_gates"
_MODEL_PATH = "model"
_TEXT_LIMIT = 4900
_EXPERIMENT = "sam2-registration"

#: Writes an artifact as an MLflow model into a directory; artifacts over the limit of bytes by their address.
SaveModel = Callable[[Artifact, Path, float], None]


def ensure_registered(
    artifact: Artifact,
    tracking_uri: str,
    *,
    run_id: str | None = None,
    copy_limit_bytes: float = 512e6,
    save: SaveModel = save_mlflow_model,
) -> RegisteredVersion:
    """The registry's version of this bundle: found by its fingerprint, or created with what is missing.

    A found version keeps its aliases, so that a repeated run undoes no rollback; a lost alias is
    set again. `run_id` is the MLflow run the files are stored in; by default one of its own. `save` writes them.
    """
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    name = str(artifact.manifest.config["model_name"])
    decision = decide(artifact.manifest)
    _ensure_model(client, name)
    found = _find(client, name, artifact.manifest.fingerprint)
    if found is None:
        version = _create(client, name, artifact, run_id, copy_limit_bytes, decision, save)
    else:
        version = found
        _restore_files(client, version, artifact, copy_limit_bytes, save)
    client.set_registered_model_alias(name, CANDIDATE, _newest(client, name).version)
    champion = _aliased(client, name, CHAMPION)
    wanted = found is None or (champion is None and version.tags.get(ROLLED_BACK) != "true")
    if decision.passed and wanted:
        _move_champion(client, name, version)
    return _describe(client, name, version.version, decision, created=found is None)


def find_version(tracking_uri: str, name: str, fingerprint: str) -> RegisteredVersion | None:
    """The version of a bundle as it stands now, or None."""
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    version = _find(client, name, fingerprint)
    if version is None:
        return None
    return _describe(client, name, version.version, None, created=False)


def promote(tracking_uri: str, name: str, version: str) -> RegisteredVersion:
    """Make a version champion. Raises PipelineError, naming the gates, when it did not pass them."""
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    chosen = _get(client, name, version)
    if chosen.tags.get(GATES_PASSED) != "true":
        missed = chosen.tags.get(MISSED) or "no gate was judged"
        raise PipelineError(
            f"version {version} of '{name}' may not become champion: {missed}.",
            "train or evaluate it again, or change evaluation.gates in the profile.",
        )
    _move_champion(client, name, chosen)
    if ROLLED_BACK in chosen.tags:
        client.delete_model_version_tag(name, version, ROLLED_BACK)
    return _describe(client, name, version, None, created=False)


def rollback(tracking_uri: str, name: str) -> RegisteredVersion:
    """Return to the champion before this one; the one that is left is never promoted by itself again."""
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    champion = _aliased(client, name, CHAMPION)
    previous = None if champion is None else champion.tags.get(PREVIOUS)
    if champion is None or not previous:
        raise ConfigurationError(
            f"model '{name}' has no champion before the present one.", "promote the version you want instead."
        )
    _get(client, name, previous)
    client.set_registered_model_alias(name, CHAMPION, previous)
    client.set_model_version_tag(name, champion.version, ROLLED_BACK, "true")
    return _describe(client, name, previous, None, created=False)


def _ensure_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name, description="Made by the SAM 2.0 pipeline.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions, newest first."""
    versions: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", max_results=1000, page_token=token)
        versions += page
        token = page.token
        if not token:
            return sorted(versions, key=lambda version: int(version.version), reverse=True)


def _find(client: MlflowClient, name: str, fingerprint: str) -> ModelVersion | None:
    return next((found for found in _versions(client, name) if found.tags.get(FINGERPRINT) == fingerprint), None)


def _newest(client: MlflowClient, name: str) -> ModelVersion:
    return _versions(client, name)[0]


def _get(client: MlflowClient, name: str, version: str) -> ModelVersion:
    try:
        return client.get_model_version(name, version)
    except MlflowException as error:
        raise ConfigurationError(
            f"model '{name}' has no version {version}.", "choose one of the versions the registry lists."
        ) from error


def _aliased(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, alias)
    except (MlflowException, RestException):
        return None


def _create(
    client: MlflowClient,
    name: str,
    artifact: Artifact,
    run_id: str | None,
    copy_limit_bytes: float,
    decision: Decision,
    save: SaveModel,
) -> ModelVersion:
    """Store the files, then create the version with all its tags in one request."""
    run_id = run_id or _own_run(client, artifact)
    _store_files(client, run_id, artifact, copy_limit_bytes, save)
    source = f"{client.get_run(run_id).info.artifact_uri}/{_MODEL_PATH}"
    return client.create_model_version(
        name, source, run_id, tags=_tags(artifact, decision, copy_limit_bytes), description=_description(artifact)
    )


def _own_run(client: MlflowClient, artifact: Artifact) -> str:
    experiment = client.get_experiment_by_name(_EXPERIMENT)
    identifier = experiment.experiment_id if experiment else client.create_experiment(_EXPERIMENT)
    run = client.create_run(
        identifier, run_name=f"registration {artifact.manifest.fingerprint[:12]}",
        tags={FINGERPRINT: artifact.manifest.fingerprint},
    )  # fmt: skip
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def _store_files(
    client: MlflowClient, run_id: str, artifact: Artifact, copy_limit_bytes: float, save: SaveModel
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / _MODEL_PATH
        save(artifact, directory, copy_limit_bytes)
        client.log_artifacts(run_id, str(directory), _MODEL_PATH)


def _restore_files(
    client: MlflowClient, version: ModelVersion, artifact: Artifact, copy_limit_bytes: float, save: SaveModel
) -> None:
    """Store the files again when the version is there but its files were wiped."""
    listed = {entry.path for entry in client.list_artifacts(version.run_id, _MODEL_PATH)}
    if f"{_MODEL_PATH}/MLmodel" not in listed:
        _store_files(client, version.run_id, artifact, copy_limit_bytes, save)


def _tags(artifact: Artifact, decision: Decision, copy_limit_bytes: float) -> dict[str, str]:
    manifest = artifact.manifest
    tags = {
        FINGERPRINT: manifest.fingerprint,
        GATES_PASSED: str(decision.passed).lower(),
        MISSED: "; ".join(decision.missed)[:_TEXT_LIMIT],
        "sam2.gates": f"{len(decision.rows) - len(decision.missed)} of {len(decision.rows)} passed",
        "sam2.size_mb": f"{manifest.size_bytes / 1e6:.2f}",
        "sam2.code_version": manifest.code_version,
        "sam2.bundle_uri": artifact.uri,
        "sam2.bundle_checksum": manifest.content_checksum,
        "sam2.stored": "copy" if manifest.size_bytes <= copy_limit_bytes else "by address",
        "sam2.formats": ", ".join(manifest.statistics.get("formats", [])),
        "sam2.lineage": json.dumps(manifest.inputs)[:_TEXT_LIMIT],
    }
    for tag, metric in (("sam2.bits_per_byte", "eval/bits_per_byte"), ("sam2.recall", "eval/needle/recall")):
        if metric in manifest.metrics:
            tags[tag] = f"{manifest.metrics[metric]:.4f}"
    tags |= manifest.statistics.get("registry_tags", {})
    return {key: value for key, value in tags.items() if value}


def _description(artifact: Artifact) -> str:
    """The beginning of the model card; the whole card is in the bundle."""
    card = (artifact.directory / "model_card.md").read_text(encoding="utf-8")
    return card if len(card) <= _TEXT_LIMIT else card[:_TEXT_LIMIT].rpartition("\n")[0]


def _move_champion(client: MlflowClient, name: str, version: ModelVersion) -> None:
    """Point `champion` at the version; the one it leaves is remembered first, so that a crash loses nothing."""
    present = _aliased(client, name, CHAMPION)
    if present is not None and present.version == version.version:
        return
    if present is not None:
        client.set_model_version_tag(name, version.version, PREVIOUS, present.version)
    client.set_registered_model_alias(name, CHAMPION, version.version)


def _describe(
    client: MlflowClient, name: str, version: str, decision: Decision | None, *, created: bool
) -> RegisteredVersion:
    current = client.get_model_version(name, version)
    registered = client.get_registered_model(name)
    aliases = sorted(alias for alias, target in registered.aliases.items() if str(target) == str(version))
    note = decision.explanation if decision else _note_from_tags(current)
    if current.tags.get(ROLLED_BACK) == "true":
        note += " It was rolled back."
    elif CHAMPION not in aliases and current.tags.get(GATES_PASSED) != "true":
        note += " It is not champion."
    return RegisteredVersion(name=name, version=str(version), aliases=aliases, note=note, created=created)


def _note_from_tags(version: ModelVersion) -> str:
    if version.tags.get(GATES_PASSED) == "true":
        return f"Gates: {version.tags.get('sam2.gates', '')}."
    missed = version.tags.get(MISSED)
    return f"Not passed: {missed}." if missed else "No gate was judged."
