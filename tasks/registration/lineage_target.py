"""What a person may name to see its lineage: a registered version, an artifact, or a bundle's directory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from infra.artifacts import Manifest
from infra.artifacts.store import MANIFEST_NAME
from infra.errors import ArtifactCorrupted, ConfigurationError
from infra.storage.interface import Storage
from infra.storage.local import LocalStorage
from tasks.registration.ancestry import Ancestry, Place, existing_storage, walk_back
from tasks.registration.evidence import fetch_bundle_directory, fetch_bundle_file
from tasks.registration.versions import (
    BUNDLE_CHECKSUM,
    BUNDLE_URI,
    FINGERPRINT,
    aliases_of,
    get_version,
    note_of,
    open_registry,
)

_LINEAGE = "lineage.json"
_REGISTERED = re.compile(r"^(?:models:/)?(?P<name>[A-Za-z0-9][\w.-]*)(?:@(?P<alias>[\w.-]+)|/(?P<number>\d{1,5}))$")
_ARTIFACT = re.compile(r"^(?P<kind>[a-z][a-z0-9_]*)/(?P<fingerprint>[0-9a-f]{6,32})$")
_FORMS = (
    "NAME@ALIAS, NAME/VERSION, models:/NAME@ALIAS, KIND/FINGERPRINT (its beginning is enough) or a bundle's directory"
)


@dataclass(frozen=True)
class Found:
    """What was named, in words, and its verified lineage."""

    title: str
    ancestry: Ancestry
    facts: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"title": self.title, **({"version": self.facts} if self.facts else {}), **self.ancestry.as_json()}


def find_lineage(what: str, store_uris: Sequence[str], tracking_uri: Callable[[], str]) -> Found:
    """Resolve what was named and walk back from it.

    tracking_uri is asked only for registered versions. Raises ConfigurationError naming the forms there are, and for
    an artifact that no store has or that several begin like.
    """
    stores = [storage for uri in store_uris if (storage := existing_storage(uri)) is not None]
    if (Path(what) / MANIFEST_NAME).is_file():
        return _of_directory(Path(what).resolve(), stores)
    registered = _REGISTERED.match(what)
    if registered:
        client = open_registry(tracking_uri())
        version = get_version(client, registered["name"], registered["alias"] or registered["number"])
        return _of_version(client, version, stores)
    artifact = _ARTIFACT.match(what)
    if artifact:
        return _of_artifact(artifact["kind"], artifact["fingerprint"], stores)
    raise ConfigurationError(f"'{what}' names no model and no artifact.", f"give {_FORMS}.")


def _of_version(client: MlflowClient, version: ModelVersion, stores: Sequence[Storage]) -> Found:
    name, tags = str(version.name), dict(version.tags)
    if FINGERPRINT not in tags or BUNDLE_URI not in tags:
        raise ConfigurationError(
            f"version {version.version} of '{name}' was not registered by this pipeline: it names no bundle.",
            "name a version that has the tag sam2.bundle_uri.",
        )
    address = tags[BUNDLE_URI].rstrip("/")
    kind = address.split("/")[-2]
    reference = f"{kind}/{tags[FINGERPRINT]}"
    home = existing_storage(address.removesuffix(reference))
    everywhere = [*([home] if home else []), *stores]
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(TemporaryDirectory()))
        places = {}
        if not any(store.exists(f"{reference}/{MANIFEST_NAME}") for store in everywhere):
            copy = fetch_bundle_directory(client, version, temporary)
            places = {} if copy is None else {reference: Place(LocalStorage(copy), address=str(version.source))}
        told = _told_by_version(client, version, temporary)
        recorded = {reference: tags[BUNDLE_CHECKSUM]} if BUNDLE_CHECKSUM in tags else {}
        inputs = {reference: json.loads(tags.get("sam2.lineage", "{}"))}
        ancestry = walk_back(reference, everywhere, told, places=places, checksums=recorded, inputs=inputs)
    aliases = aliases_of(client, name, str(version.version))
    facts = {
        "name": name, "version": str(version.version), "aliases": ", ".join(aliases),
        "note": note_of(version, "champion" in aliases), "run": str(version.run_id),
    }  # fmt: skip
    return Found(f"{name} version {version.version}", ancestry, facts)


def _of_artifact(kind: str, beginning: str, stores: Sequence[Storage]) -> Found:
    keys = {
        stored.key.removesuffix(f"/{MANIFEST_NAME}")
        for store in stores
        for stored in store.list(f"{kind}/{beginning}")
        if stored.key.endswith(f"/{MANIFEST_NAME}") and stored.key.count("/") == 2
    }
    if len(keys) != 1:
        found = f"{len(keys)} artifacts begin so: {', '.join(sorted(keys))}" if keys else "no store has it"
        raise ConfigurationError(
            f"'{kind}/{beginning}' names no single artifact: {found}.", "give more of its fingerprint, or its store."
        )
    (reference,) = keys
    told: dict[str, Manifest] = {}
    for store in stores:
        if store.exists(f"{reference}/{_LINEAGE}"):
            told |= _told(store.read(f"{reference}/{_LINEAGE}"), store.uri(f"{reference}/{_LINEAGE}"))
    return Found(reference, walk_back(reference, stores, told))


def _of_directory(directory: Path, stores: Sequence[Storage]) -> Found:
    try:
        manifest = Manifest.model_validate_json((directory / MANIFEST_NAME).read_bytes())
    except ValueError as error:
        raise ArtifactCorrupted(
            f"manifest '{directory / MANIFEST_NAME}' cannot be read.", "run the pipeline again: it is rebuilt."
        ) from error
    reference = f"{manifest.kind}/{manifest.fingerprint}"
    root = directory.parents[1]
    beside = existing_storage(str(root)) if directory == root / reference else None
    lineage = directory / _LINEAGE
    told = _told(lineage.read_bytes(), str(lineage)) if lineage.is_file() else {}
    everywhere = [*([beside] if beside else []), *stores]
    own = {reference: Place(LocalStorage(directory))}
    # Only this directory is asked for: a good copy elsewhere must not hide that it is damaged.
    return Found(str(directory), walk_back(reference, everywhere, told, places=own))


def _told_by_version(client: MlflowClient, version: ModelVersion, directory: Path) -> Mapping[str, Manifest]:
    """The manifests in the bundle's lineage.json; nothing where it cannot be had: the walk itself says what is gone."""
    try:
        path = fetch_bundle_file(client, version, _LINEAGE, directory)
    except ArtifactCorrupted:
        return {}
    return {} if path is None else _told(path.read_bytes(), str(path))


def _told(content: bytes, where: str) -> dict[str, Manifest]:
    try:
        artifacts = json.loads(content)["artifacts"]
        return {reference: Manifest.model_validate(fields) for reference, fields in artifacts.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactCorrupted(
            f"'{where}' cannot be read.", "run the pipeline again: the bundle is rebuilt."
        ) from error
