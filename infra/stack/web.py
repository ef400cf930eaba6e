"""JSON over HTTP to the stack's own servers, with the standard library: importing Prefect would cost seconds."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any

from infra.errors import PipelineError

_TRY_LATER = 503
_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
# Never through a proxy: the servers are on this machine, whatever HTTP_PROXY says.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerUnreachable(PipelineError):
    """A server of the stack did not answer."""


class ServerRefused(PipelineError):
    """A server of the stack answered with an error."""

    def __init__(self, url: str, status: int, detail: str) -> None:
        super().__init__(f"{url} answered {status}: {detail}", "correct the request as the answer says.")
        self.status = status
        self.detail = detail


def is_healthy(url: str, timeout_seconds: float = 2.0) -> bool:
    """Whether a GET of `url` answers 200 in time."""
    try:
        with _opener.open(url, timeout=timeout_seconds) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def request_json(method: str, url: str, body: Any = None, timeout_seconds: float = 30.0) -> Any:
    """The decoded answer to one request; asked again for a while when the server says to try later.

    Prefect answers 503 when its SQLite database was locked by another writer: its own client retries, so do we.

    Raises:
        ServerRefused: the answer's status is 400 or above.
        ServerUnreachable: no connection, or no answer in time.
    """
    request = urllib.request.Request(  # noqa: S310 (our own http URLs)
        url,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"content-type": "application/json", "accept": "application/json"},
    )
    for pause_seconds in (*_PAUSES_SECONDS, None):
        try:
            with _opener.open(request, timeout=timeout_seconds) as answer:
                content = answer.read()
            return json.loads(content) if content else None
        except urllib.error.HTTPError as error:
            if error.code != _TRY_LATER or pause_seconds is None:
                raise ServerRefused(url, error.code, _detail_of(error)) from error
        except OSError as error:
            raise ServerUnreachable(f"{url} did not answer ({error}).", "see `sam2 status`.") from error
        time.sleep(pause_seconds)
    raise AssertionError("the last try returns or raises")


def _detail_of(error: urllib.error.HTTPError) -> str:
    text = error.read().decode("utf-8", errors="replace")
    try:
        answer = json.loads(text)
    except json.JSONDecodeError:
        return text[:500]
    if isinstance(answer, dict):
        detail = answer.get("detail") or answer.get("exception_detail") or answer.get("message") or answer
        return detail if isinstance(detail, str) else json.dumps(detail)
    return text[:500]
