"""The chain of manifests from a model back to its sources."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from infra.artifacts import Artifact, Manifest
from infra.errors import ArtifactCorrupted
from infra.storage.interface import open_storage

#: Finds a manifest by its reference `kind/fingerprint`; None when the artifact was deleted.
Lookup = Callable[[str], Manifest | None]


@dataclass(frozen=True)
class Lineage:
    """Manifests by reference, sources first; `missing` are references whose artifact is gone."""

    manifests: dict[str, Manifest]
    missing: tuple[str, ...]

    def of_kind(self, kind: str) -> list[Manifest]:
        """The chain's manifests of one kind, sources first."""
        return [manifest for manifest in self.manifests.values() if manifest.kind == kind]

    def as_json(self) -> dict[str, Any]:
        """The whole chain, as `lineage.json` holds it."""
        artifacts = {key: manifest.model_dump(mode="json") for key, manifest in self.manifests.items()}
        return {"artifacts": artifacts, "missing": list(self.missing)}


def trace(inputs: Mapping[str, Artifact], lookup: Lookup) -> Lineage:
    """Walk from the inputs to the sources; every artifact appears once, after all it was made from."""
    known = {artifact.reference: artifact.manifest for artifact in inputs.values()}
    ordered: dict[str, Manifest] = {}
    missing: list[str] = []

    def visit(reference: str) -> None:
        if reference in ordered or reference in missing:
            return
        manifest = known.get(reference) or lookup(reference)
        if manifest is None:
            missing.append(reference)
            return
        for parent in manifest.inputs.values():
            visit(parent)
        ordered[reference] = manifest

    for reference in sorted(known):
        visit(reference)
    return Lineage(ordered, tuple(missing))


def lookup_beside(artifacts: Iterable[Artifact]) -> Lookup:
    """Look manifests up in the stores the artifacts are in: their address without `kind/fingerprint`."""
    roots = sorted({artifact.uri.removesuffix("/").removesuffix(artifact.reference) for artifact in artifacts})
    stores = [open_storage(root) for root in roots]

    def lookup(reference: str) -> Manifest | None:
        for storage in stores:
            try:
                return Manifest.model_validate_json(storage.read(f"{reference}/manifest.json"))
            except FileNotFoundError:
                continue
            except ValueError as error:
                raise ArtifactCorrupted(
                    f"manifest of '{reference}' is unreadable.", "run the pipeline again: it is rebuilt."
                ) from error
        return None

    return lookup
