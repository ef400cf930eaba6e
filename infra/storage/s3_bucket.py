"""One bucket through boto3: every request with our retries and our errors, every body resumed where it broke off.

boto3 retries requests but not the reading of an answer's body, and does not tell whether a conditional write was
repeated. So its own retries are off and one loop here does it: exponential back-off with jitter for about a
minute, as long as the error can pass.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import boto3.session
import botocore.loaders
import botocore.session
from botocore.config import Config

from infra.errors import SourceError
from infra.storage.s3_errors import (
    INVALID_RANGE,
    PRECONDITION_FAILED,
    REQUEST_ERRORS,
    code_of,
    explain,
    found_nobody,
    is_transient,
)

ATTEMPTS = 12
#: An endpoint that never answered is more likely wrong than down: give up after these.
FIRST_CONTACT_ATTEMPTS = 6
FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 20.0
#: A cut loses at most one block of what had arrived.
_BLOCK_BYTES = 64 << 10
_CONNECTIONS = 32
#: Keeps the parsed description of S3's interface: a further client takes 15 ms instead of 70.
_LOADER = botocore.loaders.create_loader()


class ObjectChanged(Exception):
    """The object was replaced while it was being read; read it again from its beginning."""


class Bucket:
    """boto3's client for one bucket. Safe for threads; make it after a fork, not before.

    Credentials, region and endpoint come from the environment or the machine's role only.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        configuration = Config(
            retries={"mode": "standard", "total_max_attempts": 1},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=_CONNECTIONS,
        )
        try:
            # A session of its own: the default one is not for threads, and keeps the credentials it saw first.
            session = botocore.session.get_session()
            session.register_component("data_loader", _LOADER)
            # boto3 alone reads AWS_DEFAULT_REGION only; the other SDKs, and people, say AWS_REGION.
            region = os.environ.get("AWS_REGION") or None
            self._client: Any = boto3.session.Session(botocore_session=session, region_name=region).client(
                "s3", config=configuration
            )
        except REQUEST_ERRORS as error:
            raise explain(error, self.uri(""), name, "") from error
        self.endpoint: str = self._client.meta.endpoint_url
        self._reached = False

    def uri(self, key: str) -> str:
        """`s3://bucket/key`."""
        return f"s3://{self.name}/{key}"

    def explain(self, error: Exception, key: str) -> Exception:
        """The caller's error for a request's error (see `s3_errors.explain`)."""
        return explain(error, self.uri(key), self.name, self.endpoint)

    def call(self, operation: str, key: str, **arguments: Any) -> dict[str, Any]:
        """One client operation on `key`, tried again while the error can pass; raises our errors."""
        try:
            return self.attempt(operation, Key=key, **arguments)
        except REQUEST_ERRORS as error:
            raise self.explain(error, key) from error

    def attempt(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """The same with boto3's errors, for callers that read their code."""
        retry = Retry()
        while True:
            try:
                answer: dict[str, Any] = getattr(self._client, operation)(Bucket=self.name, **arguments)
            except REQUEST_ERRORS as error:
                if found_nobody(error) and not self._reached:
                    retry.limit = FIRST_CONTACT_ATTEMPTS
                self._reached = self._reached or bool(code_of(error))
                if not (is_transient(error) and retry.wait()):
                    raise
            else:
                self._reached = True
                return answer

    def get(self, key: str, start: int, stop: int, version: str | None = None) -> dict[str, Any] | None:
        """Answer for bytes [start, stop) of `key`; None when it has no byte at `start`.

        Raises FileNotFoundError, ObjectChanged when the object is no longer at `version`, our errors.
        """
        condition = {"IfMatch": version} if version is not None else {}
        try:
            return self.attempt("get_object", Key=key, Range=f"bytes={start}-{stop - 1}", **condition)
        except REQUEST_ERRORS as error:
            if code_of(error) in PRECONDITION_FAILED:
                raise ObjectChanged(self.uri(key)) from error
            if code_of(error) in INVALID_RANGE:
                return None
            raise self.explain(error, key) from error

    def drain(
        self, answer: dict[str, Any] | None, key: str, start: int, stop: int, write: Callable[[int, bytes], None]
    ) -> None:
        """Hand bytes [start, stop) of `key` to `write(offset, block)`, in order, beginning with `answer`'s body.

        A body that breaks off, or ends early, is asked for again from where it stopped. Raises as `get` does.
        """
        position, retry = start, Retry()
        version = answer["ETag"] if answer is not None else None
        while position < stop:
            before = position
            error: Exception | None = None
            if answer is None:
                raise ObjectChanged(self.uri(key))
            self._check_range(answer, key, position)
            try:
                for block in answer["Body"].iter_chunks(_BLOCK_BYTES):
                    block = block[: stop - position]
                    write(position, block)
                    position += len(block)
            except REQUEST_ERRORS as broken:
                error = broken
            finally:
                answer["Body"].close()
            if position >= stop:
                return
            retry = Retry() if position > before else retry
            if not retry.wait():
                raise SourceError(
                    f"'{self.uri(key)}' breaks off at byte {position} again and again.",
                    "check the network and run again to continue.",
                ) from error
            answer = self.get(key, position, stop, version)

    def _check_range(self, answer: dict[str, Any], key: str, position: int) -> None:
        stated = str(answer.get("ContentRange", f"bytes {0}-")).removeprefix("bytes ").partition("-")[0]
        if stated != str(position):
            raise SourceError(
                f"'{self.endpoint}' does not obey ranges: asked for '{self.uri(key)}' from byte {position}, "
                f"it sent from byte {stated}.",
                "use a server that does (RFC 9110, Range).",
            )


class Retry:
    """Counts attempts and sleeps between them: exponential back-off with jitter."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit if limit is not None else ATTEMPTS
        self._failures = 0

    def wait(self) -> bool:
        """Sleep before the next attempt; False when there is none left."""
        self._failures += 1
        if self._failures >= self.limit:
            return False
        longest = min(FIRST_DELAY_SECONDS * 2**self._failures, LONGEST_DELAY_SECONDS)
        time.sleep(random.uniform(longest / 4, longest))  # noqa: S311 - spreads clients, hides nothing
        return True


def server_time(answer: dict[str, Any]) -> float:
    """The server's own clock at its answer, Unix seconds (ours when it does not say)."""
    stated = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(stated).timestamp() if stated else time.time()
