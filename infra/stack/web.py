"""JSON over HTTP to the stack's own servers, with the standard library: importing Prefect would cost seconds."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from infra.errors import PipelineError

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
    """The decoded answer to one request.

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
    try:
        with _opener.open(request, timeout=timeout_seconds) as answer:
            content = answer.read()
    except urllib.error.HTTPError as error:
        raise ServerRefused(url, error.code, _detail_of(error)) from error
    except OSError as error:
        raise ServerUnreachable(f"{url} did not answer ({error}).", "see `sam2 status`.") from error
    return json.loads(content) if content else None


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
