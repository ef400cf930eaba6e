"""The verified way from an artifact back to its sources: every manifest and file on it is checked, not trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from infra.artifacts import Manifest, Stage, StageConfig, StageContext, StageResult, plan_fingerprint
from infra.artifacts.store import MANIFEST_NAME
from infra.errors import PipelineError
from infra.storage.checksum import checksum_file
from infra.storage.interface import Storage, open_storage

#: Figures worth a line, by kind of artifact; of other kinds the first three.
_KEY_FIGURES = {
    "raw_documents": ("download/documents", "download/megabytes"),
    "filtered_documents": ("quality/documents", "quality/kept_fraction"),
    "unique_documents": ("dedup/documents", "dedup/kept_fraction"),
    "tokens": ("tokens/train", "tokens/vocabulary_size"),
    "checkpoint": ("train/tokens", "train/loss", "train/validation_loss"),
    "evaluation": ("eval/bits_per_byte", "eval/needle/recall"),
    "registration": ("registration/size_mb", "registration/gates_passed"),
}


class State(StrEnum):
    """What was found of an artifact."""

    INTACT = "intact"
    CHANGED = "rebuilt"  # intact, but no longer the content that was recorded
    DAMAGED = "damaged"
    MISSING = "missing"


@dataclass(frozen=True)
class Place:
    """Where an artifact's directory is: a storage and the prefix below it (empty, or ending in `/`).

    address: what people are told where the storage is only a temporary copy.
    """

    storage: Storage
    prefix: str = ""
    address: str = ""

    @property
    def uri(self) -> str:
        return self.address or self.storage.uri(self.prefix).rstrip("/")


@dataclass(frozen=True)
class Ancestor:
    """One artifact of the chain; the manifest may be known from a copy when the artifact is gone."""

    reference: str
    state: State
    problem: str = ""
    place: str = ""
    manifest: Manifest | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)  # input name -> reference

    @property
    def figures(self) -> dict[str, float]:
        """The few figures that say what it is."""
        if self.manifest is None:
            return {}
        metrics = self.manifest.metrics
        wanted = [name for name in _KEY_FIGURES.get(self.manifest.kind, ()) if name in metrics]
        return {name: metrics[name] for name in wanted or list(metrics)[:3]}

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The sources it was read from, as its manifest has them; empty for what was made from other artifacts."""
        return [] if self.manifest is None else source_rows(self.manifest)

    def as_json(self) -> dict[str, Any]:
        """Everything but the file list."""
        manifest = self.manifest
        known = {} if manifest is None else {
            "stage": manifest.stage, "stage_version": manifest.stage_version, "created_at": manifest.created_at,
            "code_version": manifest.code_version, "seconds": manifest.cost.seconds, "usd": manifest.cost.usd,
            "metrics": manifest.metrics, "size_bytes": manifest.size_bytes,
            "content_checksum": manifest.content_checksum, "sources": self.sources,
        }  # fmt: skip
        found = {"artifact": self.reference, "state": self.state.value, "problem": self.problem, "place": self.place}
        return {**found, "inputs": dict(self.inputs), **known}


@dataclass(frozen=True)
class Ancestry:
    """The chain by reference, `root` first."""

    root: str
    ancestors: dict[str, Ancestor]

    def in_state(self, state: State) -> list[Ancestor]:
        """The artifacts found so."""
        return [one for one in self.ancestors.values() if one.state is state]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        counts = {state.value: len(self.in_state(state)) for state in State}
        return {"root": self.root, "counts": counts, "artifacts": [one.as_json() for one in self.ancestors.values()]}


def walk_back(
    root: str,
    stores: Sequence[Storage],
    told: Mapping[str, Manifest],
    *,
    places: Mapping[str, Place] | None = None,
    checksums: Mapping[str, str] | None = None,
    inputs: Mapping[str, Mapping[str, str]] | None = None,
) -> Ancestry:
    """Examine an artifact and all it was made from.

    stores: where artifacts may be. told: manifests a bundle's `lineage.json` keeps of them. places: artifacts that are
    looked at there and nowhere else, such as a bundle's copy. checksums, inputs: content checksums and inputs recorded
    elsewhere, by reference.
    """
    ancestors: dict[str, Ancestor] = {}
    waiting = [root]
    while waiting:
        reference = waiting.pop(0)
        if reference in ancestors:
            continue
        found = list(_places(reference, stores, (places or {}).get(reference)))
        recorded = told.get(reference)
        expected = (checksums or {}).get(reference) or (recorded.content_checksum if recorded else None)
        one = _best([_examine(reference, place, recorded, expected) for place in found]) or _missing(
            reference, recorded
        )
        known = one.manifest.inputs if one.manifest else (inputs or {}).get(reference, {})
        ancestors[reference] = replace(one, inputs=known)
        waiting += known.values()
    return Ancestry(root, ancestors)


def existing_storage(uri: str) -> Storage | None:
    """The storage at an address; None where it is a local directory that is not there (opening would create it)."""
    if not uri.startswith("s3://") and not Path(uri.removeprefix("file://")).expanduser().is_dir():
        return None
    return open_storage(uri)


def source_rows(manifest: Manifest) -> list[dict[str, Any]]:
    """Name, address, licence, revision or checksum, documents and bytes of each source a download stage read."""
    rows = []
    figures = manifest.statistics.get("sources", {})
    for source in manifest.config.get("sources", []):
        if not isinstance(source, dict):
            continue
        read = figures.get(source.get("name"), {}) if isinstance(figures, dict) else {}
        rows.append(
            {
                "name": source.get("name"),
                "uri": source.get("uri"),
                "licence": source.get("licence"),
                "revision": source.get("pinned") or source.get("sha256") or None,
                "documents": read.get("kept"),
                "bytes": read.get("kept_bytes"),
            }
        )
    return rows


def _places(reference: str, stores: Sequence[Storage], own: Place | None) -> Iterator[Place]:
    """Where the artifact's manifest is."""
    for place in [own] if own else [Place(store, f"{reference}/") for store in stores]:
        if place.storage.exists(f"{place.prefix}{MANIFEST_NAME}"):
            yield place


def _examine(reference: str, place: Place, recorded: Manifest | None, expected: str | None) -> Ancestor:
    """The artifact at one place."""
    try:
        manifest = Manifest.model_validate_json(place.storage.read(f"{place.prefix}{MANIFEST_NAME}"))
    except (ValueError, PipelineError) as error:
        reason = " ".join(str(error).split())[:200]
        return Ancestor(reference, State.DAMAGED, f"its manifest cannot be read: {reason}", place.uri, recorded)
    if f"{manifest.kind}/{manifest.fingerprint}" != reference:
        other = f"{manifest.kind}/{manifest.fingerprint}"
        return Ancestor(reference, State.DAMAGED, f"its manifest is that of {other}", place.uri, recorded)
    if recomputed_fingerprint(manifest) != manifest.fingerprint:
        problem = "its stage, configuration and inputs do not give its fingerprint: the manifest was changed"
        return Ancestor(reference, State.DAMAGED, problem, place.uri, manifest)
    problem = _first_defect(manifest, place)
    if problem:
        return Ancestor(reference, State.DAMAGED, problem, place.uri, manifest)
    if expected is not None and manifest.content_checksum != expected:
        return Ancestor(reference, State.CHANGED, "its files are not those that were recorded", place.uri, manifest)
    return Ancestor(reference, State.INTACT, "", place.uri, manifest)


def recomputed_fingerprint(manifest: Manifest) -> str:
    """The fingerprint that follows from what the manifest says was asked for."""
    stage = Stage(manifest.stage, manifest.kind, manifest.stage_version, StageConfig, _not_run)
    return plan_fingerprint(stage, _Recorded(manifest.config), manifest.inputs)


@dataclass(frozen=True)
class _Recorded:
    literals: dict[str, Any]

    def identity(self) -> dict[str, Any]:
        return self.literals


def _not_run(context: StageContext[StageConfig]) -> StageResult:
    raise NotImplementedError("a recorded stage is compared, never run")


def _first_defect(manifest: Manifest, place: Place) -> str:
    """Local files are read whole; of remote ones the sizes are compared."""
    directory = place.storage.local_path(place.prefix)
    if directory is None:
        sizes = {stored.key: stored.size_bytes for stored in place.storage.list(place.prefix)}
        for entry in manifest.files:
            size = sizes.get(f"{place.prefix}{entry.path}")
            if size != entry.size_bytes:
                return f"file '{entry.path}' " + ("is missing" if size is None else f"has {size} bytes")
        return ""
    for entry in manifest.files:
        path = directory / entry.path
        if not path.is_file():
            return f"file '{entry.path}' is missing"
        if path.stat().st_size != entry.size_bytes or checksum_file(path) != entry.checksum:
            return f"file '{entry.path}' does not match its checksum"
    return ""


def _best(found: Sequence[Ancestor]) -> Ancestor | None:
    """One intact copy is enough."""
    order = list(State)
    return min(found, key=lambda one: order.index(one.state), default=None)


def _missing(reference: str, recorded: Manifest | None) -> Ancestor:
    kept = "; its manifest is known from the bundle" if recorded else ", and so is its manifest"
    return Ancestor(reference, State.MISSING, f"its files are gone{kept}", "", recorded)
