"""Conditional writes: create once, and replace what was read; also on servers that know only `If-None-Match: *`.

Three things go wrong with a conditional put.

- Its answer can be lost: the repeated request is then refused because of our own first one. So every such put
  carries a token of its own in the object's metadata, and a refused writer looks whose object it met.
- `If-Match` on a put is missing on some servers (OpenStack Swift answers 501, others ignore it). There `replace`
  is made of `create` alone, see `_replace_by_claim`.
- Swift looks for the object when a put begins, not when it commits: of several creates that overlap, all may be
  told that they were first, and the last one stays. So on servers without `If-Match` a creator looks again once
  the others must have committed, and has won when the object is still its own.
"""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import suppress
from typing import Any

from infra.errors import ConfigurationError
from infra.storage.checksum import checksum_bytes
from infra.storage.s3_bucket import Bucket, server_time
from infra.storage.s3_errors import MISSING, PRECONDITION_FAILED, REQUEST_ERRORS, UNSUPPORTED, code_of
from infra.storage.s3_transfer import checksum_metadata, read_object, write_object

#: A claim so old belongs to a process that died between claiming and replacing.
CLAIM_SECONDS = 30.0
#: How long a creator lets overlapping creates commit: at least so long, and so many times its own put.
SETTLE_SECONDS = 0.25
_SETTLE_PUTS = 4
_TOKEN = "sam2-write"  # noqa: S105 - the name of a metadata field
_MAXIMUM_CLAIMS = 1000


class ConditionalWrites:
    """`create` and `replace` of one bucket; what the server can do is found out once, at first use."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._creates_once: bool | None = None
        self._matches: bool | None = None
        self._identity = uuid.uuid4().hex

    def create(self, key: str, data: bytes) -> bool:
        """Write `key` only when it does not exist; False when somebody else was first.

        Raises ConfigurationError on a server that overwrites in spite of `If-None-Match: *`.
        """
        started = time.monotonic()
        token = self._put(key, data, IfNoneMatch="*")
        seconds = time.monotonic() - started
        if token is None:
            return False
        if self._creates_once is None:
            # The same bytes once more: a server that obeys the condition must refuse them.
            self._creates_once = self._put(key, data, IfNoneMatch="*") is None
        if not self._creates_once:
            raise self._unusable()
        if self._obeys_match(key):
            return True
        time.sleep(max(SETTLE_SECONDS, _SETTLE_PUTS * seconds))
        return self._holds(key, token)

    def replace(self, key: str, data: bytes, version: str) -> bool:
        """Overwrite `key` only when it is still at `version`; False when it changed or is gone."""
        if self._obeys_match(key):
            return self._put(key, data, IfMatch=version) is not None
        return self._replace_by_claim(key, data, version)

    def _put(self, key: str, data: bytes, **condition: str) -> str | None:
        """The token the object was written with; None when the condition did not hold."""
        token = uuid.uuid4().hex
        metadata = {**checksum_metadata(checksum_bytes(data)), _TOKEN: token}
        try:
            self._bucket.attempt("put_object", Key=key, Body=data, Metadata=metadata, **condition)
        except REQUEST_ERRORS as error:
            if code_of(error) in UNSUPPORTED:
                raise self._unusable() from error
            if code_of(error) not in PRECONDITION_FAILED | MISSING:
                raise self._bucket.explain(error, key) from error
            return token if self._holds(key, token) else None
        return token

    def _holds(self, key: str, token: str) -> bool:
        """Whether the object is the one that was written with this token."""
        with suppress(FileNotFoundError):
            return bool(self._bucket.call("head_object", key).get("Metadata", {}).get(_TOKEN) == token)
        return False

    def _obeys_match(self, key: str) -> bool:
        if self._matches is None:
            self._matches = self._try_match(key)
        return self._matches

    def _try_match(self, key: str) -> bool:
        """Whether the server obeys `If-Match` on a put: tried with an object that does not exist."""
        probe = f"{key}.probe-{uuid.uuid4().hex}"
        try:
            self._bucket.attempt("put_object", Key=probe, Body=b"", IfMatch='"0"')
        except REQUEST_ERRORS as error:
            if code_of(error) in UNSUPPORTED:
                return False
            if code_of(error) in PRECONDITION_FAILED | MISSING:
                return True
            raise self._bucket.explain(error, probe) from error
        self._bucket.call("delete_object", probe)
        return False

    def _replace_by_claim(self, key: str, data: bytes, version: str) -> bool:
        """Replace with `create` alone: who creates the claim on this version may write, if it still is the version.

        A claim outlives its use only when its process dies; then the next one in the chain is created. Claims are
        removed after the version has gone: whoever creates one later finds another version, and gives it back.
        """
        prefix = f"{key}.claim-{version.strip(chr(34))}"
        claim = self._claim(prefix)
        if claim is None:
            return False
        replaced = self._version(key) == version
        if replaced:
            write_object(self._bucket, key, data)
        for number in range(claim, -1, -1):
            self._bucket.call("delete_object", f"{prefix}-{number}")
        return replaced

    def _claim(self, prefix: str) -> int | None:
        """Number of the claim that is ours; None while another's is young.

        A claim this thread made before may be there still: the network failed before it was removed.
        """
        owner = f"{self._identity}-{threading.get_ident()}".encode()
        for number in range(_MAXIMUM_CLAIMS):
            key = f"{prefix}-{number}"
            if self.create(key, owner):
                return number
            try:
                if read_object(self._bucket, key)[0] == owner:
                    return number
                found = self._bucket.call("head_object", key)
            except FileNotFoundError:
                return None  # used and removed this very moment: the version has changed
            if server_time(found) - found["LastModified"].timestamp() < CLAIM_SECONDS:
                return None
        raise ConfigurationError(f"'{self._bucket.uri(prefix)}' has {_MAXIMUM_CLAIMS} dead claims.", "delete them.")

    def _version(self, key: str) -> str | None:
        try:
            found: dict[str, Any] = self._bucket.call("head_object", key)
        except FileNotFoundError:
            return None
        return str(found["ETag"])

    def _unusable(self) -> ConfigurationError:
        return ConfigurationError(
            f"the server at '{self._bucket.endpoint}' does not create objects once (If-None-Match: *), "
            f"so two runs could build into bucket '{self._bucket.name}' at the same time.",
            "use AWS S3, OpenStack Swift, Ceph or MinIO of a version that does, or a local artifact_root.",
        )
