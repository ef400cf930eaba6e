"""The MLflow registry: one version a bundle, aliases that say which one to use, and the way back.

`candidate` is the newest version, `partial` the newest whose training was stopped early (which is no candidate).
`champion` moves by itself only to a version whose gates all passed and which is not shown to be worse than the present
one (`tasks.registration.champion`), and remembers the one before it; `rollback` returns to that one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from infra.artifacts import Artifact
from tasks.registration.champion import decide_promotion, promote, rollback
from tasks.registration.config import PromotionRule
from tasks.registration.gates import Decision, decide
from tasks.registration.packaging import save_mlflow_model
from tasks.registration.promotion_lock import promotion_lock
from tasks.registration.version import RegisteredVersion
from tasks.registration.versions import (
    BUNDLE_CHECKSUM,
    BUNDLE_URI,
    CANDIDATE,
    CHAMPION,
    FINGERPRINT,
    GATES,
    GATES_PASSED,
    MISSED,
    MODEL_PATH,
    PARTIAL_ALIAS,
    PENDING,
    PROMOTION,
    ROLLED_BACK,
    TEXT_LIMIT,
    UNEVALUATED,
    aliased,
    all_versions,
    describe,
    is_partial,
    number_of,
    open_registry,
    with_fingerprint,
)

__all__ = ["SaveModel", "ensure_registered", "find_version", "promote", "rollback"]

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
    promotion: PromotionRule = "not-worse",
) -> RegisteredVersion:
    """The registry's version of this bundle: found by its fingerprint, or created with what is missing.

    A found version keeps its aliases, so that a repeated run undoes no rollback; a lost alias is set again, and a
    promotion that a killed run left undecided is decided. `run_id` is the MLflow run the files are stored in; by
    default one of its own. `save` writes them.
    """
    client = open_registry(tracking_uri)
    name = str(artifact.manifest.config["model_name"])
    decision = decide(artifact.manifest)
    _ensure_model(client, name)
    found = with_fingerprint(client, name, artifact.manifest.fingerprint)
    if found:
        version, created = found[0], False
        _restore_files(client, version, artifact, copy_limit_bytes, save)
    else:
        version, created = _create_once(client, name, artifact, run_id, copy_limit_bytes, decision, save)
    with promotion_lock(client, name):  # of two runs, the one that looked first must not set the alias last
        _point_at_newest(client, name)
    undecided = version.tags.get(PROMOTION) == PENDING
    lost = aliased(client, name, CHAMPION) is None and version.tags.get(ROLLED_BACK) != "true"
    if undecided or lost:
        decide_promotion(client, version, artifact, decision, promotion)
    return describe(client, name, version.version, created=created)


def _point_at_newest(client: MlflowClient, name: str) -> None:
    """`candidate` at the newest whole model, `partial` at the newest one whose training was stopped early."""
    found = all_versions(client, name)
    for alias, wanted in ((CANDIDATE, False), (PARTIAL_ALIAS, True)):
        newest = next((version for version in found if is_partial(version) is wanted), None)
        if newest is not None:
            client.set_registered_model_alias(name, alias, newest.version)


def find_version(tracking_uri: str, name: str, fingerprint: str) -> RegisteredVersion | None:
    """The version of a bundle as it stands now, or None."""
    client = open_registry(tracking_uri)
    found = with_fingerprint(client, name, fingerprint)
    return describe(client, name, found[0].version, created=False) if found else None


def _ensure_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name, description="Made by the SAM 2.0 pipeline.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _create_once(
    client: MlflowClient,
    name: str,
    artifact: Artifact,
    run_id: str | None,
    copy_limit_bytes: float,
    decision: Decision,
    save: SaveModel,
) -> tuple[ModelVersion, bool]:
    """The version, and whether this call made it: of two runs with one bundle, the first's version stays."""
    mine = _create(client, name, artifact, run_id, copy_limit_bytes, decision, save)
    first = with_fingerprint(client, name, artifact.manifest.fingerprint)[0]
    if number_of(first) == number_of(mine):
        return mine, True
    client.delete_model_version(name, mine.version)
    return first, False


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
    source = f"{client.get_run(run_id).info.artifact_uri}/{MODEL_PATH}"
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
        directory = Path(temporary) / MODEL_PATH
        save(artifact, directory, copy_limit_bytes)
        client.log_artifacts(run_id, str(directory), MODEL_PATH)


def _restore_files(
    client: MlflowClient, version: ModelVersion, artifact: Artifact, copy_limit_bytes: float, save: SaveModel
) -> None:
    """Store the files again when the version is there but its files were wiped."""
    listed = {entry.path for entry in client.list_artifacts(version.run_id, MODEL_PATH)}
    if f"{MODEL_PATH}/MLmodel" not in listed:
        _store_files(client, version.run_id, artifact, copy_limit_bytes, save)


def _tags(artifact: Artifact, decision: Decision, copy_limit_bytes: float) -> dict[str, str]:
    manifest = artifact.manifest
    tags = {
        FINGERPRINT: manifest.fingerprint,
        PROMOTION: PENDING,
        GATES_PASSED: str(decision.passed).lower(),
        MISSED: "; ".join(decision.objections)[:TEXT_LIMIT],
        GATES: UNEVALUATED
        if decision.withheld and not decision.rows
        else f"{len(decision.rows) - len(decision.missed)} of {len(decision.rows)} passed",
        "sam2.size_mb": f"{manifest.size_bytes / 1e6:.2f}",
        "sam2.code_version": manifest.code_version,
        BUNDLE_URI: artifact.uri,
        BUNDLE_CHECKSUM: manifest.content_checksum,
        "sam2.stored": "copy" if manifest.size_bytes <= copy_limit_bytes else "by address",
        "sam2.formats": ", ".join(manifest.statistics.get("formats", [])),
        "sam2.lineage": json.dumps(manifest.inputs)[:TEXT_LIMIT],
    }
    for tag, metric in (("sam2.bits_per_byte", "eval/bits_per_byte"), ("sam2.recall", "eval/needle/recall")):
        if metric in manifest.metrics:
            tags[tag] = f"{manifest.metrics[metric]:.4f}"
    tags |= manifest.statistics.get("registry_tags", {})
    return {key: value for key, value in tags.items() if value}


def _description(artifact: Artifact) -> str:
    """The beginning of the model card; the whole card is in the bundle."""
    card = (artifact.directory / "model_card.md").read_text(encoding="utf-8")
    return card if len(card) <= TEXT_LIMIT else card[:TEXT_LIMIT].rpartition("\n")[0]
