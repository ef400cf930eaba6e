"""Whole objects to and from a bucket: in parts, in parallel, resumed, checked.

Every object written here carries the XXH3-128 of its content as metadata, so that every read can be checked
against what was meant to be stored, whatever the server's own checksums are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from infra.errors import PipelineError, SourceError
from infra.storage.checksum import checksum_bytes, checksum_descriptor
from infra.storage.interface import DamagedObject
from infra.storage.local import atomic_file
from infra.storage.s3_bucket import Bucket, ObjectChanged
from infra.storage.s3_errors import NO_SUCH_UPLOAD, REQUEST_ERRORS, code_of

PART_BYTES = 16 << 20
THREADS = 4
#: S3 allows so many parts; larger files get larger parts.
_MAXIMUM_PARTS = 10_000
_CHECKSUM = "sam2-checksum"
#: How often an object that changes, or arrives damaged, is read.
_WHOLE_READS = 3


class _Target(Protocol):
    """Where an object's bytes go; blocks come from several threads, in any order."""

    def allocate(self, size_bytes: int) -> None: ...

    def write(self, offset: int, block: bytes) -> None: ...

    def checksum(self) -> str: ...


class _Memory:
    def __init__(self) -> None:
        self.content = bytearray()

    def allocate(self, size_bytes: int) -> None:
        self.content = bytearray(size_bytes)

    def write(self, offset: int, block: bytes) -> None:
        self.content[offset : offset + len(block)] = block

    def checksum(self) -> str:
        return checksum_bytes(bytes(self.content))


class _OpenFile:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def allocate(self, size_bytes: int) -> None:
        os.ftruncate(self._descriptor, size_bytes)

    def write(self, offset: int, block: bytes) -> None:
        view = memoryview(block)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def checksum(self) -> str:
        return checksum_descriptor(self._descriptor)


def read_object(bucket: Bucket, key: str) -> tuple[bytes, str]:
    """Content and version; raises FileNotFoundError, and SourceError for content that fails its checksum."""
    target = _Memory()
    version = _fetch_intact(bucket, key, target)
    return bytes(target.content), version


def download_object(bucket: Bucket, key: str, path: Path) -> None:
    """Copy an object to a file, atomically; raises as `read_object` does."""
    with atomic_file(path) as stream:
        _fetch_intact(bucket, key, _OpenFile(stream.fileno()))


def checksum_metadata(checksum: str) -> dict[str, str]:
    """The metadata an object with this content is stored with."""
    return {_CHECKSUM: checksum}


def write_object(bucket: Bucket, key: str, data: bytes) -> None:
    """Create or overwrite an object; atomic, as every S3 put is."""
    bucket.call("put_object", key, Body=data, Metadata=checksum_metadata(checksum_bytes(data)))


def upload_file(bucket: Bucket, path: Path, key: str) -> None:
    """Copy a file to an object: one put, or a multi-part upload in parallel that is aborted when it fails.

    The file is opened once: it may be unlinked, but must not change, while it is uploaded.
    """
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size <= PART_BYTES:
            write_object(bucket, key, stream.read())
            return
        _upload_parts(bucket, key, stream.fileno(), size, checksum_descriptor(stream.fileno()))


def abort_uploads(bucket: Bucket, prefix: str) -> int:
    """Abort every unfinished multi-part upload below `prefix`, and return how many there were.

    An upload whose process was killed stays, invisible and paid for, until it is aborted.
    """
    aborted = 0
    marker: dict[str, str] = {}
    while True:
        try:
            page = bucket.attempt("list_multipart_uploads", Prefix=prefix, **marker)
        except REQUEST_ERRORS as error:
            raise bucket.explain(error, prefix) from error
        for upload in page.get("Uploads", []):
            _abort(bucket, upload["Key"], upload["UploadId"])
            aborted += 1
        if not page.get("IsTruncated") or not page.get("NextKeyMarker"):
            return aborted
        marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page.get("NextUploadIdMarker", "")}


def _fetch_intact(bucket: Bucket, key: str, target: _Target) -> str:
    """The object's content into `target` and its version back; read anew when it changes or fails its checksum."""
    for _ in range(_WHOLE_READS):
        with suppress(ObjectChanged):
            version, checksum = _fetch(bucket, key, target)
            if checksum in (None, target.checksum()):
                return version
    raise DamagedObject(
        f"'{bucket.uri(key)}' does not match its checksum, or changes whenever it is read.",
        "replace the object, or run again when nothing writes to it.",
    )


def _fetch(bucket: Bucket, key: str, target: _Target) -> tuple[str, str | None]:
    """Version and stated checksum; the first part's answer tells the size, the others follow in parallel."""
    answer = bucket.get(key, 0, PART_BYTES)
    if answer is None:
        return _empty(bucket, key, target)
    version = answer["ETag"]
    size = int(answer["ContentRange"].rpartition("/")[2]) if "ContentRange" in answer else answer["ContentLength"]
    target.allocate(size)
    bucket.drain(answer, key, 0, min(PART_BYTES, size), target.write)

    def part(start: int) -> None:
        stop = min(start + PART_BYTES, size)
        bucket.drain(bucket.get(key, start, stop, version), key, start, stop, target.write)

    _in_parallel(part, range(PART_BYTES, size, PART_BYTES))
    return version, answer.get("Metadata", {}).get(_CHECKSUM)


def _empty(bucket: Bucket, key: str, target: _Target) -> tuple[str, str | None]:
    """An empty object has no first byte to ask for."""
    answer = bucket.call("head_object", key)
    if answer["ContentLength"]:
        raise ObjectChanged(key)
    target.allocate(0)
    return answer["ETag"], answer.get("Metadata", {}).get(_CHECKSUM)


def _upload_parts(bucket: Bucket, key: str, descriptor: int, size: int, checksum: str) -> None:
    part_bytes = max(PART_BYTES, -(-size // _MAXIMUM_PARTS))
    upload = bucket.call("create_multipart_upload", key, Metadata=checksum_metadata(checksum))["UploadId"]

    def send(start: int) -> dict[str, Any]:
        number = start // part_bytes + 1
        body = os.pread(descriptor, min(part_bytes, size - start), start)
        etag = bucket.call("upload_part", key, UploadId=upload, PartNumber=number, Body=body)["ETag"]
        return {"PartNumber": number, "ETag": etag}

    try:
        parts = _in_parallel(send, range(0, size, part_bytes))
        _complete(bucket, key, upload, parts, checksum)
        stored = bucket.call("head_object", key)["ContentLength"]
        if stored != size:
            raise SourceError(
                f"'{bucket.uri(key)}' has {stored} bytes after an upload of {size}.", "run again; report the server."
            )
    except BaseException:
        with suppress(PipelineError, FileNotFoundError):
            _abort(bucket, key, upload)
        raise


def _complete(bucket: Bucket, key: str, upload: str, parts: Sequence[dict[str, Any]], checksum: str) -> None:
    try:
        bucket.attempt(
            "complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload={"Parts": list(parts)}
        )  # fmt: skip
    except REQUEST_ERRORS as error:
        # Completed, but the answer was lost: the second attempt finds no such upload, and our object in place.
        if code_of(error) == NO_SUCH_UPLOAD:
            with suppress(FileNotFoundError):
                stored = bucket.call("head_object", key)
                if stored.get("Metadata", {}).get(_CHECKSUM) == checksum:
                    return
        raise bucket.explain(error, key) from error


def _abort(bucket: Bucket, key: str, upload: str) -> None:
    try:
        bucket.attempt("abort_multipart_upload", Key=key, UploadId=upload)
    except REQUEST_ERRORS as error:
        if code_of(error) != NO_SUCH_UPLOAD:
            raise bucket.explain(error, key) from error


def _in_parallel(work: Callable[[int], Any], starts: Sequence[int]) -> list[Any]:
    """Results in order; the first error cancels what has not begun."""
    if len(starts) < 2:
        return [work(start) for start in starts]
    with ThreadPoolExecutor(min(THREADS, len(starts)), thread_name_prefix="s3") as pool:
        futures = [pool.submit(work, start) for start in starts]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
