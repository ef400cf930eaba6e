"""The artifact store: finished artifacts by kind and fingerprint, on disk or in a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from infra.artifacts.manifest import FileEntry, Manifest
from infra.errors import ArtifactCorrupted
from infra.storage.checksum import checksum_file
from infra.storage.interface import Storage, open_storage

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """A finished artifact whose files are on this machine."""

    manifest: Manifest
    directory: Path
    uri: str

    @property
    def reference(self) -> str:
        """`kind/fingerprint`, as lineage writes it."""
        return f"{self.manifest.kind}/{self.manifest.fingerprint}"

    def path(self, relative: str) -> Path:
        """One of the artifact's files; raises ArtifactCorrupted when the manifest does not list it."""
        if relative not in {entry.path for entry in self.manifest.files}:
            raise ArtifactCorrupted(
                f"artifact '{self.uri}' has no file '{relative}'.", "delete that directory and run again."
            )
        return self.directory / relative

    def paths(self, prefix: str = "", suffix: str = "") -> list[Path]:
        """Files whose relative path starts and ends so, in path order."""
        names = (entry.path for entry in self.manifest.files)
        return [self.directory / name for name in sorted(names) if name.startswith(prefix) and name.endswith(suffix)]


class ArtifactStore:
    """Artifacts below one storage root; remote ones are copied to `cache` before use."""

    def __init__(self, storage: Storage, cache: Path) -> None:
        self.storage = storage
        self._cache = cache

    @classmethod
    def open(cls, uri: str, cache: Path) -> ArtifactStore:
        """Open a store at a local path or `s3://bucket/prefix`."""
        return cls(open_storage(uri), cache)

    def prefix(self, kind: str, fingerprint: str) -> str:
        """Key prefix of an artifact's directory."""
        return f"{kind}/{fingerprint}"

    def working_directory(self, kind: str, fingerprint: str) -> Path:
        """Where the artifact is built and read on this machine (created when missing)."""
        local = self.storage.local_path(self.prefix(kind, fingerprint))
        directory = local if local is not None else self._cache / kind / fingerprint
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def find(self, kind: str, fingerprint: str, *, verify: bool = True) -> Artifact | None:
        """The finished artifact, or None when there is none.

        Every file's checksum is verified (pass verify=False to trust the sizes); raises
        ArtifactCorrupted naming the first bad file.
        """
        manifest = self.read_manifest(kind, fingerprint)
        if manifest is None:
            return None
        directory = self.working_directory(kind, fingerprint)
        for entry in manifest.files:
            self._provide(manifest, directory, entry, verify=verify)
        return Artifact(manifest, directory, self.storage.uri(self.prefix(kind, fingerprint)))

    def read_manifest(self, kind: str, fingerprint: str) -> Manifest | None:
        """The manifest alone; raises ArtifactCorrupted when it cannot be parsed."""
        key = f"{self.prefix(kind, fingerprint)}/{MANIFEST_NAME}"
        try:
            return Manifest.model_validate_json(self.storage.read(key))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise ArtifactCorrupted(
                f"manifest '{self.storage.uri(key)}' is unreadable: {error.error_count()} bad fields.",
                "it is rebuilt when the pipeline runs again.",
            ) from error

    def manifests(self) -> Iterator[Manifest]:
        """Every finished artifact's manifest."""
        for stored in self.storage.list():
            kind, _, rest = stored.key.partition("/")
            fingerprint, _, name = rest.partition("/")
            if name == MANIFEST_NAME:
                manifest = self.read_manifest(kind, fingerprint)
                if manifest is not None:
                    yield manifest

    def withdraw_manifest(self, kind: str, fingerprint: str) -> None:
        """Make an artifact unfinished again (its good shards stay for the rebuild)."""
        self.storage.delete(f"{self.prefix(kind, fingerprint)}/{MANIFEST_NAME}")

    def publish(self, manifest: Manifest, directory: Path) -> Artifact:
        """Upload the files, then, last, the manifest."""
        prefix = self.prefix(manifest.kind, manifest.fingerprint)
        for entry in manifest.files:
            self.storage.upload(directory / entry.path, f"{prefix}/{entry.path}")
        self.storage.write(f"{prefix}/{MANIFEST_NAME}", manifest.model_dump_json(indent=1).encode())
        return Artifact(manifest, directory, self.storage.uri(prefix))

    def _provide(self, manifest: Manifest, directory: Path, entry: FileEntry, *, verify: bool) -> None:
        path = directory / entry.path
        remote = self.storage.local_path("") is None
        if remote and not (path.is_file() and path.stat().st_size == entry.size_bytes):
            try:
                self.storage.download(f"{self.prefix(manifest.kind, manifest.fingerprint)}/{entry.path}", path)
            except FileNotFoundError as error:
                raise self._corrupted(manifest, entry, "is missing") from error
        if not path.is_file():
            raise self._corrupted(manifest, entry, "is missing")
        if path.stat().st_size != entry.size_bytes:
            raise self._corrupted(manifest, entry, f"has {path.stat().st_size} bytes, not {entry.size_bytes}")
        if verify and checksum_file(path) != entry.checksum:
            if remote:
                path.unlink()  # a bad cached copy must not outlive this error
            raise self._corrupted(manifest, entry, "does not match its checksum")

    def _corrupted(self, manifest: Manifest, entry: FileEntry, what: str) -> ArtifactCorrupted:
        place = self.storage.uri(f"{self.prefix(manifest.kind, manifest.fingerprint)}/{entry.path}")
        return ArtifactCorrupted(
            f"file '{place}' of the {manifest.stage} stage {what}.",
            "it is rebuilt from its intact inputs when the pipeline runs again.",
        )
