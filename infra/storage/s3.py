"""Storage in an S3 bucket through boto3 (AWS, or any compatible server by AWS_ENDPOINT_URL_S3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from infra.errors import ConfigurationError, SourceError
from infra.storage.interface import StoredFile
from infra.storage.s3_bucket import Bucket, Retry, server_time
from infra.storage.s3_conditions import ConditionalWrites
from infra.storage.s3_errors import REQUEST_ERRORS
from infra.storage.s3_transfer import abort_uploads, download_object, read_object, upload_file, write_object

_DELETED_AT_ONCE = 1000


class S3Storage:
    """Storage below `s3://bucket/prefix`; see `Bucket` for retries and `ConditionalWrites` for the requirements."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self._bucket = Bucket(bucket)
        self._conditional = ConditionalWrites(self._bucket)
        self._bucket_seen = False

    @classmethod
    def from_uri(cls, uri: str) -> S3Storage:
        """Parse `s3://bucket/prefix`; raises ConfigurationError when the bucket is missing."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise ConfigurationError(f"storage '{uri}' names no bucket.", "write s3://bucket/prefix.")
        return cls(bucket, prefix)

    def uri(self, key: str = "") -> str:
        return f"s3://{self.bucket}/{self._key(key)}"

    def local_path(self, key: str) -> Path | None:
        return None

    def read(self, key: str) -> bytes:
        return self.read_versioned(key)[0]

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        return read_object(self._bucket, self._key(key))

    def write(self, key: str, data: bytes) -> None:
        write_object(self._bucket, self._key(key), data)

    def create(self, key: str, data: bytes) -> bool:
        return self._conditional.create(self._key(key), data)

    def replace(self, key: str, data: bytes, version: str) -> bool:
        return self._conditional.replace(self._key(key), data, version)

    def upload(self, path: Path, key: str) -> None:
        upload_file(self._bucket, path, self._key(key))

    def download(self, key: str, path: Path) -> None:
        download_object(self._bucket, self._key(key), path)

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """Pages begin after the last key seen, never at a continuation token: tokens expire, keys do not."""
        root = f"{self.prefix}/" if self.prefix else ""
        last = ""
        retry = Retry()
        while True:
            page = self._page(root + prefix, last)
            # A page that overlaps the one before yields its new keys only; order is S3's (bytes of UTF-8).
            new = [entry for entry in page.get("Contents", []) if entry["Key"].encode() > last.encode()]
            for entry in new:
                last = entry["Key"]
                yield StoredFile(last[len(root) :], entry["Size"], entry.get("ETag", ""))
            if not page["IsTruncated"]:
                return
            if new:
                retry = Retry()
            elif not retry.wait():
                raise SourceError(
                    f"the listing of '{self.uri(prefix)}' stays at '{last}': the server repeats a page.",
                    "run again later; report it to the server's operator.",
                )

    def exists(self, key: str) -> bool:
        try:
            self._bucket.call("head_object", self._key(key))
        except FileNotFoundError:
            # The answer to HEAD has no body: a missing bucket looks like a missing object.
            self._see_bucket()
            return False
        return True

    def age_seconds(self, key: str) -> float:
        found = self._bucket.call("head_object", self._key(key))
        return server_time(found) - float(found["LastModified"].timestamp())

    def delete(self, key: str) -> None:
        self._bucket.call("delete_object", self._key(key))

    def delete_many(self, keys: Iterable[str]) -> None:
        entries = [{"Key": self._key(key)} for key in keys]
        for start in range(0, len(entries), _DELETED_AT_ONCE):
            batch = {"Objects": entries[start : start + _DELETED_AT_ONCE], "Quiet": True}
            try:
                answer = self._bucket.attempt("delete_objects", Delete=batch)
            except REQUEST_ERRORS as error:
                raise self._bucket.explain(error, self.prefix) from error
            for refused in answer.get("Errors", []):
                self._bucket.call("delete_object", refused["Key"])

    def discard_unfinished(self, prefix: str = "") -> int:
        return abort_uploads(self._bucket, self._key(prefix))

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix and key else self.prefix or key

    def _page(self, prefix: str, after: str) -> dict[str, Any]:
        start = {"StartAfter": after} if after else {}
        try:
            return self._bucket.attempt("list_objects_v2", Prefix=prefix, **start)
        except REQUEST_ERRORS as error:
            raise self._bucket.explain(error, prefix) from error

    def _see_bucket(self) -> None:
        if not self._bucket_seen:
            self._page("", "")
            self._bucket_seen = True
