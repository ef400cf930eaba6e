"""Storage in an S3 bucket through boto3 (AWS, or any compatible server by AWS_ENDPOINT_URL_S3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.errors import ConfigurationError, SourceError
from infra.storage.interface import StoredFile
from infra.storage.local import atomic_file

_MISSING = {"404", "NoSuchKey", "NotFound"}
_PRECONDITION = {"412", "PreconditionFailed", "ConditionalRequestConflict", "409"}
_DENIED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
_TRANSFER = TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=4)


class S3Storage:
    """Storage below `s3://bucket/prefix`. Credentials come from the environment or the machine's role only."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        configuration = Config(retries={"max_attempts": 8, "mode": "adaptive"}, connect_timeout=10, read_timeout=60)
        try:
            self._client: Any = boto3.client("s3", config=configuration)
        except BotoCoreError as error:
            raise ConfigurationError(
                f"cannot open s3://{bucket}: {error}.",
                "set AWS_REGION and the credentials in the environment.",
            ) from error

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
        response = self._call("get_object", key)
        return response["Body"].read(), response["ETag"]

    def write(self, key: str, data: bytes) -> None:
        self._call("put_object", key, Body=data)

    def create(self, key: str, data: bytes) -> bool:
        return self._conditional_put(key, data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, version: str) -> bool:
        return self._conditional_put(key, data, IfMatch=version)

    def upload(self, path: Path, key: str) -> None:
        try:
            self._client.upload_file(str(path), self.bucket, self._key(key), Config=_TRANSFER)
        except (ClientError, BotoCoreError) as error:
            raise self._explain(error, key) from error

    def download(self, key: str, path: Path) -> None:
        with atomic_file(path) as stream:
            try:
                self._client.download_fileobj(self.bucket, self._key(key), stream, Config=_TRANSFER)
            except (ClientError, BotoCoreError) as error:
                raise self._explain(error, key) from error

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        skip = len(self._key("")) + 1 if self.prefix else 0
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key(prefix))
            for page in pages:
                for entry in page.get("Contents", []):
                    yield StoredFile(entry["Key"][skip:], entry["Size"])
        except (ClientError, BotoCoreError) as error:
            raise self._explain(error, prefix) from error

    def exists(self, key: str) -> bool:
        try:
            self._call("head_object", key)
        except FileNotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        self._call("delete_object", key)

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix and key else self.prefix or key

    def _conditional_put(self, key: str, data: bytes, **condition: str) -> bool:
        try:
            self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data, **condition)
        except (ClientError, BotoCoreError) as error:
            if _error_code(error) in _PRECONDITION | _MISSING:
                return False
            raise self._explain(error, key) from error
        return True

    def _call(self, operation: str, key: str, **arguments: Any) -> dict[str, Any]:
        try:
            response: dict[str, Any] = getattr(self._client, operation)(
                Bucket=self.bucket, Key=self._key(key), **arguments
            )
        except (ClientError, BotoCoreError) as error:
            raise self._explain(error, key) from error
        return response

    def _explain(self, error: Exception, key: str) -> Exception:
        code = _error_code(error)
        if code in _MISSING:
            return FileNotFoundError(self.uri(key))
        if code in _DENIED:
            return SourceError(
                f"'{self.uri(key)}' was refused ({code}).",
                "check the access key, the secret and the bucket's policy; nothing was lost.",
            )
        return SourceError(f"'{self.uri(key)}' failed: {error}.", "check the endpoint and run again to continue.")


def _error_code(error: Exception) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""
