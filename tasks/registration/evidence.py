"""The item results a bundle carries, read from an artifact or from wherever a registered version's bundle is."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from infra.artifacts import Artifact
from infra.errors import ArtifactCorrupted
from infra.storage.checksum import checksum_bytes
from infra.storage.interface import open_storage
from tasks.evaluation.items import ITEMS_FILE, ItemScores, read_items
from tasks.registration.formats import EVALUATION_DIRECTORY
from tasks.registration.versions import MODEL_PATH

ITEMS = f"{EVALUATION_DIRECTORY}/{ITEMS_FILE}"


def items_of_artifact(artifact: Artifact) -> list[ItemScores] | None:
    """The bundle's item results; None when it has none, as bundles of earlier versions."""
    listed = {entry.path for entry in artifact.manifest.files}
    return read_items(artifact.path(ITEMS)) if ITEMS in listed else None


def items_of_version(client: MlflowClient, version: ModelVersion) -> list[ItemScores] | None:
    """The same of a registered version, copied into the registry or registered by address.

    Raises ArtifactCorrupted when they are listed and cannot be had.
    """
    with tempfile.TemporaryDirectory() as temporary:
        path = fetch_bundle_file(client, version, ITEMS, Path(temporary))
        return None if path is None else read_items(path)


def gate_rows(client: MlflowClient, version: ModelVersion) -> list[dict[str, Any]]:
    """The gates' verdicts that a version's bundle carries; none for bundles of earlier versions."""
    with tempfile.TemporaryDirectory() as temporary:
        path = fetch_bundle_file(client, version, f"{EVALUATION_DIRECTORY}/evaluation.json", Path(temporary))
        content = {} if path is None else json.loads(path.read_bytes())
    return list(content.get("gates", []))


def fetch_bundle_directory(client: MlflowClient, version: ModelVersion, directory: Path) -> Path | None:
    """A bundle's copy in the registry, as a whole; None when it was registered by address, or its files are gone."""
    try:
        bundle = _model_configuration(client, version, directory)["bundle"]
        if bundle is None:
            return None
        return Path(client.download_artifacts(version.run_id, f"{MODEL_PATH}/{bundle}", str(directory)))
    except (OSError, MlflowException):
        return None


def fetch_bundle_file(client: MlflowClient, version: ModelVersion, relative: str, directory: Path) -> Path | None:
    """One file of a version's bundle below `directory`, verified; None when the bundle does not have it."""
    try:
        configured = _model_configuration(client, version, directory)
        if "bundle_uri" in configured["config"]:
            return _from_address(configured["config"], relative, directory)
        return _from_copy(client, version, configured["bundle"], relative, directory)
    except (OSError, MlflowException, KeyError, ValueError) as error:
        raise ArtifactCorrupted(
            f"'{relative}' of version {version.version} of '{version.name}' cannot be read: {error}.",
            "run the pipeline again: it stores a version's missing files anew.",
        ) from error


def _model_configuration(client: MlflowClient, version: ModelVersion, directory: Path) -> dict[str, Any]:
    """Where the MLflow model says its bundle is."""
    local = client.download_artifacts(version.run_id, f"{MODEL_PATH}/MLmodel", str(directory))
    flavor = Model.load(str(Path(local).parent)).flavors["python_function"]
    bundle = (flavor.get("artifacts") or {}).get("bundle", {}).get("path")
    return {"config": flavor.get("config") or {}, "bundle": bundle}


def _from_copy(client: MlflowClient, version: ModelVersion, bundle: str, relative: str, directory: Path) -> Path | None:
    place = f"{MODEL_PATH}/{bundle}/{relative}"
    listed = {entry.path for entry in client.list_artifacts(version.run_id, place.rpartition("/")[0])}
    if place not in listed:
        return None
    return Path(client.download_artifacts(version.run_id, place, str(directory)))


def _from_address(configured: dict[str, Any], relative: str, directory: Path) -> Path | None:
    checksum = json.loads(configured["checksums"]).get(relative)
    if checksum is None:
        return None
    address = configured["bundle_uri"]
    # Opening a local directory creates it, and a bundle that is gone must not come back empty.
    if "://" not in address and not Path(address).is_dir():
        raise FileNotFoundError(f"no bundle at '{address}'")
    content = open_storage(address).read(relative)
    if checksum_bytes(content) != checksum:
        raise ValueError(f"it is not the one that was registered at '{address}'")
    target = directory / Path(relative).name
    target.write_bytes(content)
    return target
