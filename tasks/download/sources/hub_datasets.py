"""`hf://ORG/NAME[@REVISION]`: files of a Hugging Face Hub data set, by revision, one file at a time.

The revision is resolved to a commit, which pins the content; every file is verified against the SHA-256 (large files)
or git hash (small ones) of that commit before it is read. Transfers are huggingface_hub's: `HF_ENDPOINT` names another
Hub, `HF_TOKEN` opens private and gated data sets, interrupted files are continued. The listing and kept files stay in
the cache, so a second run needs no network. The pipeline itself sets `HF_HUB_OFFLINE=1`; a run that is to reach the
Hub sets `HF_HUB_OFFLINE=0`.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from infra.errors import SourceError, StorageFull
from infra.storage.local import atomic_file, sync_directory
from tasks.download.formats import FilePlace, Record, format_of, is_readable, read_batches, records_of
from tasks.download.progress import Throughput, observe_transfer
from tasks.download.sources.file_source import FileSource
from tasks.download.sources.source import SourcePart

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

SCHEME = "hf://"
_URI = re.compile(r"^hf://([A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?)(?:@([\w./-]{1,255}))?$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_PIN = "commit:"
_ATTEMPTS = 4
_REFUSED = (401, 403, 404)
_UNKNOWN_LICENCES = ("", "unknown", "other")
_LEAST_TEXT_PACKED = 1.5
_LEAST_TEXT_PLAIN = 0.7

Answer = TypeVar("Answer")


class HubFile(BaseModel):
    """A file of a commit; `checksum` is `sha256:...` or `git:...` (the blob's SHA-1)."""

    model_config = ConfigDict(frozen=True)
    path: str
    size_bytes: int
    checksum: str


class HubListing(BaseModel):
    """What a data set holds at a commit."""

    model_config = ConfigDict(frozen=True)
    commit: str
    licence: str
    files: tuple[HubFile, ...]


class HubDataset(FileSource):
    """JSONL, CSV, Parquet and text files of a data set repository, in path order."""

    include: tuple[str, ...] = Field(
        default=("*",), description="patterns of file paths in the repository, such as `en/*.json.gz`"
    )
    exclude: tuple[str, ...] = Field(default=(), description="patterns of file paths to leave out, after `include`")
    maximum_files: int | None = Field(default=None, gt=0, description="read only the first so many files")
    keep_files: bool = Field(
        default=True, description="keep fetched files in the cache; false: one file on disk at a time, read and deleted"
    )

    @field_validator("uri")
    @classmethod
    def _names_a_data_set(cls, uri: str) -> str:
        if not _URI.match(uri) or ".." in uri:
            raise ValueError("write hf://ORG/NAME or hf://ORG/NAME@REVISION")
        return uri

    @property
    def repository(self) -> str:
        """ORG/NAME."""
        return self._parts()[0]

    @property
    def revision(self) -> str:
        """Branch, tag or commit asked for."""
        return self._parts()[1]

    def pin(self, cache_directory: Path) -> str:
        return f"{_PIN}{self._listing(cache_directory, self.revision).commit}"

    def places(self, cache_directory: Path) -> list[FilePlace]:
        """The files to read; under `maximum_bytes` the first ones that surely hold so much text."""
        allotted = self._allotted(self._pinned_listing(cache_directory))
        return [FilePlace(file.path, size_bytes=file.size_bytes) for file, _ in allotted.values()]

    def parts(self, cache_directory: Path, part_bytes: int) -> list[SourcePart]:
        """Files gathered to parts; under `maximum_bytes` one file a part, each with its share of the bytes."""
        if self.maximum_bytes is None:
            return super().parts(cache_directory, part_bytes)
        return [SourcePart((place,)) for place in self.places(cache_directory)]

    def local_path(self, cache_directory: Path, origin: str) -> Path:
        listing = self._pinned_listing(cache_directory)
        # One that others read too must not be deleted under them, so a passing file has a place of its own.
        place = "files" if self.keep_files else f"passing-{self.name}"
        file = next(file for file in listing.files if file.path == origin)
        return self._fetch(file, listing.commit, self._folder(cache_directory) / listing.commit / place)

    def batches(self, cache_directory: Path, part: SourcePart) -> Iterator[pa.RecordBatch]:
        listing = self._pinned_listing(cache_directory)
        licence = "" if self.licence not in _UNKNOWN_LICENCES else listing.licence
        allotted = self._allotted(listing)
        for place in part.places:
            path = self.local_path(cache_directory, place.origin)
            try:
                batches = read_batches(path, _reading_place(place), self.fields)
                for batch in _up_to(batches, allotted[place.origin][1]):
                    yield _as_found(batch, place.origin, licence)
            finally:  # also when the reader has enough
                self.release(path)

    def records(self, cache_directory: Path) -> Iterator[Record]:
        for batch in self.batches(cache_directory, SourcePart(tuple(self.places(cache_directory)))):
            yield from records_of(batch)

    def release(self, path: Path) -> None:
        """The file has been read: with `keep_files` off it makes room for the next."""
        if not self.keep_files:
            path.unlink(missing_ok=True)

    def _pinned_listing(self, cache_directory: Path) -> HubListing:
        revision = self.pinned.removeprefix(_PIN) if self.pinned.startswith(_PIN) else self.revision
        return self._listing(cache_directory, revision)

    def _parts(self) -> tuple[str, str]:
        match = _URI.match(self.uri)
        assert match is not None
        return match.group(1), match.group(2) or "main"

    def _folder(self, cache_directory: Path) -> Path:
        return cache_directory / "hub" / self.repository.replace("/", "--")

    def _chosen(self, listing: HubListing) -> list[HubFile]:
        chosen = [
            file
            for file in listing.files
            if any(fnmatch(file.path, pattern) for pattern in self.include)
            and not any(fnmatch(file.path, pattern) for pattern in self.exclude)
            and is_readable(_reading_name(file.path))
        ]
        if not chosen:
            raise SourceError(
                f"source '{self.name}': no readable file of '{self.uri}' matches {list(self.include)}.",
                f"correct `include`; the data set has {_some(listing.files)}.",
            )
        return chosen[: self.maximum_files]

    def _allotted(self, listing: HubListing) -> dict[str, tuple[HubFile, int | None]]:
        """The files to read and the text to take of each, bytes; the same for any number of workers.

        A cap is divided among files by their stored size, over no more files than hold it even if they unpack to
        little: so a capped source too is read in parallel, and continued file by file.
        """
        chosen = self._chosen(listing)
        if self.maximum_bytes is None:
            return {file.path: (file, None) for file in chosen}
        least = [file.size_bytes * _least_text_a_byte(file.path) for file in chosen]
        count = int(np.searchsorted(np.cumsum(least), self.maximum_bytes)) + 1
        total = max(sum(least[:count]), 1.0)
        return {
            file.path: (file, math.ceil(self.maximum_bytes * size / total))
            for file, size in zip(chosen[:count], least, strict=False)
        }

    def _listing(self, cache_directory: Path, revision: str) -> HubListing:
        """The files at a revision; a commit's listing never changes, so it is asked for once."""
        if _COMMIT.match(revision):
            cached = _read_listing(self._listing_path(cache_directory, revision))
            if cached is not None:
                return cached
        listing = self._ask_listing(revision)
        with atomic_file(self._listing_path(cache_directory, listing.commit)) as stream:
            stream.write(listing.model_dump_json(indent=1).encode())
        return listing

    def _listing_path(self, cache_directory: Path, commit: str) -> Path:
        return self._folder(cache_directory) / commit / "files.json"

    def _ask_listing(self, revision: str) -> HubListing:
        from huggingface_hub.hf_api import RepoFile

        api = _hub()
        info = self._asked("be found", lambda: api.dataset_info(self.repository, revision=revision))
        if info.sha is None:
            raise SourceError(f"source '{self.name}': the Hub names no commit for '{self.uri}'.", "name a revision.")
        commit = str(info.sha)
        entries = self._asked(
            "be listed",
            lambda: list(api.list_repo_tree(self.repository, recursive=True, revision=commit, repo_type="dataset")),
        )
        files = sorted((_hub_file(entry) for entry in entries if isinstance(entry, RepoFile)), key=lambda f: f.path)
        if any(".." in PurePosixPath(file.path).parts or file.path.startswith("/") for file in files):
            raise SourceError(f"source '{self.name}': '{self.uri}' lists a path outside itself.", "do not use it.")
        licence = (info.card_data.get("license") if info.card_data is not None else None) or "unknown"
        stated = " AND ".join(map(str, licence)) if isinstance(licence, list) else str(licence)
        return HubListing(commit=commit, licence=stated, files=tuple(files))

    def _fetch(self, file: HubFile, commit: str, folder: Path) -> Path:
        """The verified file below `folder`, fetched when it is not there."""
        target = folder / file.path
        if target.is_file():
            return target
        incoming = folder.with_name(f"incoming-{folder.name}")
        incoming.mkdir(parents=True, exist_ok=True)
        _require_space(file, incoming)
        fetched = self._asked(
            "be downloaded", lambda: _download(self.repository, file.path, commit, incoming), file.path
        )
        if fetched.stat().st_size != file.size_bytes or _checksum(fetched, file.checksum) != file.checksum:
            fetched.unlink()
            raise SourceError(
                f"source '{self.name}': '{file.path}' of '{self.uri}' does not have the checksum {file.checksum}.",
                "run again; the damaged file was removed.",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        fetched.replace(target)
        sync_directory(target.parent)
        return target

    def _asked(self, purpose: str, call: Callable[[], Answer], path: str = "") -> Answer:
        """The Hub's answer, asked for again while the network or the server is at fault."""
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        what = f"source '{self.name}': {f'{path!r} of ' if path else ''}'{self.uri}' cannot {purpose}"
        problem = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(min(0.5 * 2**attempt, 8.0))
            try:
                return call()
            except OfflineModeIsEnabled as error:
                raise SourceError(
                    f"{what}: HF_HUB_OFFLINE keeps the Hub out.", "set HF_HUB_OFFLINE=0 to reach the Hub."
                ) from error
            except HfHubHTTPError as error:
                status = error.response.status_code
                problem = f"the Hub answered {status}"
                if status in _REFUSED:
                    raise SourceError(f"{what}: {problem}.", self._fix_refusal()) from None
            except OSError as error:
                problem = _described(error)
                if _is_local(error):
                    raise
            except Exception as error:
                if not _is_transport_error(error):
                    raise
                problem = _described(error)
        raise SourceError(
            f"{what}: {problem}.",
            "check the network and HF_ENDPOINT and run again (what arrived is kept), or mark the source `optional`.",
        )

    def _fix_refusal(self) -> str:
        token = "its token may lack access" if os.environ.get("HF_TOKEN") else "set HF_TOKEN"
        return f"check the name and revision; a private or gated data set needs its terms accepted ({token})."


def _hub() -> HfApi:
    """The Hub's client, with telemetry and progress bars off."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import HfApi, constants

    constants.HF_HUB_DISABLE_TELEMETRY = True  # where it was imported before the variable was set
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)


def _download(repository: str, path: str, commit: str, folder: Path) -> Path:
    watch = cast(Any, _TransferWatch)  # called, not used as the bar that its type asks for
    fetched = _hub().hf_hub_download(
        repository, path, repo_type="dataset", revision=commit, local_dir=folder, tqdm_class=watch
    )
    return Path(str(fetched))


class _TransferWatch:
    """Stands where the Hub's client has its progress bar, and tells whoever watches this context's transfers."""

    def __init__(self, total: int | None = None, initial: int = 0, **_: object) -> None:
        self.total, self.n = total, initial
        self._begun = time.monotonic()

    def update(self, size_bytes: float = 1) -> None:
        """Count bytes that arrived (negative ones when the client begins anew)."""
        self.n += int(size_bytes)
        observe_transfer(Throughput(self.n, self.total, time.monotonic() - self._begun))

    def close(self) -> None:
        """Nothing is shown, so nothing is left to take away."""

    def __enter__(self) -> _TransferWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _reading_name(path: str) -> str:
    """The Hub's `.json` files of training texts hold one object a line."""
    return re.sub(r"\.json(\.gz|\.zst)?$", r".jsonl\1", path)


def _reading_place(place: FilePlace) -> FilePlace:
    return replace(place, origin=_reading_name(place.origin))


def _least_text_a_byte(path: str) -> float:
    """Text that a stored byte holds at least, by format (English web text: 2.5 in gzip, 2 in Parquet)."""
    suffix, packing = format_of(_reading_name(path))
    return _LEAST_TEXT_PACKED if packing or suffix == ".parquet" else _LEAST_TEXT_PLAIN


def _up_to(batches: Iterator[pa.RecordBatch], most_bytes: int | None) -> Iterator[pa.RecordBatch]:
    """The records up to the one that reaches `most_bytes` of text."""
    left = most_bytes
    for batch in batches:
        if left is not None:
            sizes = np.cumsum(pc.fill_null(pc.binary_length(batch.column("text")), 0).to_numpy().astype(np.int64))
            stop = int(np.searchsorted(sizes, left)) + 1
            if stop <= batch.num_rows:
                yield batch.slice(0, stop)
                return
            left -= int(sizes[-1]) if len(sizes) else 0
        yield batch


def _as_found(batch: pa.RecordBatch, path: str, licence: str) -> pa.RecordBatch:
    """The batch under the file's own name and, where one is given, with its licence."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    name = _reading_name(path)
    if name != path:
        columns["origin"] = pc.binary_replace_slice(columns["origin"], 0, len(name.encode()), path)
    if licence:
        columns["licence"] = pa.array([licence] * batch.num_rows, pa.string())
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=batch.schema)


def _hub_file(entry: RepoFile) -> HubFile:
    checksum = f"sha256:{entry.lfs.sha256}" if entry.lfs is not None else f"git:{entry.blob_id}"
    return HubFile(path=entry.path, size_bytes=entry.size, checksum=checksum)


def _checksum(path: Path, like: str) -> str:
    """The file's checksum of the same kind as `like`."""
    with path.open("rb") as stream:
        if like.startswith("sha256:"):
            return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        while block := stream.read(1 << 20):
            digest.update(block)
        return f"git:{digest.hexdigest()}"


def _read_listing(path: Path) -> HubListing | None:
    try:
        return HubListing.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        return None  # written by another version: asked for anew


def _require_space(file: HubFile, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < file.size_bytes:
        raise StorageFull(
            f"'{file.path}' has {file.size_bytes} bytes, and '{folder}' has room for {free}.",
            "free space, choose another cache directory, or set `keep_files: false`.",
        )


def _some(files: tuple[HubFile, ...]) -> str:
    names = [file.path for file in files[:5]]
    return ", ".join(names) + (f" and {len(files) - 5} more" if len(files) > 5 else "") if names else "no files"


def _described(error: BaseException) -> str:
    return type(error).__name__ if not str(error) else f"{type(error).__name__}: {str(error).splitlines()[0]}"


def _is_local(error: OSError) -> bool:
    """Whether an OSError is about this machine's files: the Hub's client also raises plain OSErrors for the network."""
    return error.filename is not None or (error.errno is not None and not isinstance(error, ConnectionError))


def _is_transport_error(error: Exception) -> bool:
    return type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2")
