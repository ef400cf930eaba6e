"""The artifact store: finished artifacts by kind and fingerprint, on disk or in a bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from infra.artifacts.manifest import FileEntry, Manifest
from infra.errors import ArtifactCorrupted, LeaseLost
from infra.storage.checksum import checksum_file
from infra.storage.interface import DamagedObject, Storage, open_storage

MANIFEST_NAME = "manifest.json"
_THREADS = 8


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

        def provide(entry: FileEntry) -> None:
            self._provide(manifest, directory, entry, verify=verify)

        if self._remote:
            _in_parallel(provide, manifest.files)
        else:
            for entry in manifest.files:
                provide(entry)
        return Artifact(manifest, directory, self.storage.uri(self.prefix(kind, fingerprint)))

    def read_manifest(self, kind: str, fingerprint: str) -> Manifest | None:
        """The manifest alone; raises ArtifactCorrupted when it cannot be parsed."""
        key = f"{self.prefix(kind, fingerprint)}/{MANIFEST_NAME}"
        try:
            return Manifest.model_validate_json(self.storage.read(key))
        except FileNotFoundError:
            return None
        except (ValidationError, DamagedObject) as error:
            reason = f"{error.error_count()} bad fields" if isinstance(error, ValidationError) else "damaged"
            raise ArtifactCorrupted(
                f"manifest '{self.storage.uri(key)}' is unreadable: {reason}.",
                "it is rebuilt when the pipeline runs again.",
            ) from error

    def has_manifest(self, kind: str, fingerprint: str) -> bool:
        """Whether the artifact was finished once; it may be damaged since (`find` tells)."""
        return self.storage.exists(f"{self.prefix(kind, fingerprint)}/{MANIFEST_NAME}")

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

    def publish(self, manifest: Manifest, directory: Path, stored: Mapping[str, FileEntry] | None = None) -> Artifact:
        """Upload the files that are not `stored` yet, then, last and once, the manifest.

        Raises LeaseLost when another process has published other content for this fingerprint meanwhile.
        """
        prefix = self.prefix(manifest.kind, manifest.fingerprint)
        key = f"{prefix}/{MANIFEST_NAME}"

        def upload(entry: FileEntry) -> None:
            self.storage.upload(directory / entry.path, f"{prefix}/{entry.path}")

        if self._remote:
            known = stored or {}
            _in_parallel(upload, [entry for entry in manifest.files if known.get(entry.path) != entry])
            _in_parallel(upload, self._not_there(manifest))
        if not self.storage.create(key, manifest.model_dump_json(indent=1).encode()):
            published = self.read_manifest(manifest.kind, manifest.fingerprint)
            if published is None or published.content_checksum != manifest.content_checksum:
                raise LeaseLost(
                    f"another process published '{self.storage.uri(key)}' with other content.",
                    "run again: its artifact is used.",
                )
            manifest = published
        return Artifact(manifest, directory, self.storage.uri(prefix))

    def tidy(self, manifest: Manifest) -> None:
        """Remove what building left in remote storage: markers, scratch files, uploads of killed attempts."""
        prefix = self.prefix(manifest.kind, manifest.fingerprint)
        if self._remote:
            kept = {f"{prefix}/{entry.path}" for entry in manifest.files} | {f"{prefix}/{MANIFEST_NAME}"}
            found = [stored.key for stored in self.storage.list(f"{prefix}/")]
            self.storage.delete_many([key for key in found if key not in kept])
        self.storage.discard_unfinished(f"{prefix}/")

    @property
    def _remote(self) -> bool:
        return self.storage.local_path("") is None

    def _not_there(self, manifest: Manifest) -> list[FileEntry]:
        """Files that the storage's own listing lacks, or has with another size."""
        prefix = f"{self.prefix(manifest.kind, manifest.fingerprint)}/"
        sizes = {stored.key.removeprefix(prefix): stored.size_bytes for stored in self.storage.list(prefix)}
        return [entry for entry in manifest.files if sizes.get(entry.path) != entry.size_bytes]

    def _provide(self, manifest: Manifest, directory: Path, entry: FileEntry, *, verify: bool) -> None:
        """Have the file on this machine; a copy that is missing or bad is fetched anew before it is an error."""
        defect = _defect(directory / entry.path, entry, verify=verify)
        if defect is not None and self._remote:
            self._fetch(manifest, directory, entry)
            defect = _defect(directory / entry.path, entry, verify=True)
            if defect is not None:
                (directory / entry.path).unlink()  # a bad cached copy must not outlive this error
        if defect is not None:
            raise self._corrupted(manifest, entry, defect)

    def _fetch(self, manifest: Manifest, directory: Path, entry: FileEntry) -> None:
        key = f"{self.prefix(manifest.kind, manifest.fingerprint)}/{entry.path}"
        try:
            self.storage.download(key, directory / entry.path)
        except FileNotFoundError as error:
            raise self._corrupted(manifest, entry, "is missing") from error
        except DamagedObject as error:
            raise self._corrupted(manifest, entry, "does not match its checksum") from error

    def _corrupted(self, manifest: Manifest, entry: FileEntry, what: str) -> ArtifactCorrupted:
        place = self.storage.uri(f"{self.prefix(manifest.kind, manifest.fingerprint)}/{entry.path}")
        return ArtifactCorrupted(
            f"file '{place}' of the {manifest.stage} stage {what}.",
            "it is rebuilt from its intact inputs when the pipeline runs again.",
        )


def _in_parallel(work: Callable[[FileEntry], None], entries: Sequence[FileEntry]) -> None:
    """Requests for small files take longer than their bytes; the first error ends the round."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="artifact files") as pool:
        futures = [pool.submit(work, entry) for entry in entries]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()


def _defect(path: Path, entry: FileEntry, *, verify: bool) -> str | None:
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != entry.size_bytes:
        return f"has {path.stat().st_size} bytes, not {entry.size_bytes}"
    if verify and checksum_file(path) != entry.checksum:
        return "does not match its checksum"
    return None
