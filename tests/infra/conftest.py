"""Object stores on loopback, for everything that stores: OpenStack Swift (real), moto (knows `If-Match` on puts)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import boto3
import pytest

from tests.support.fault_proxy import FaultProxy
from tests.support.swift_server import SwiftServer, why_not

_NUMBERS = itertools.count()


def _new_bucket(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """boto3 finds the server and the credentials in the environment, as in production."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{next(_NUMBERS)}"
    # A session of its own: boto3's default session keeps the credentials it saw first.
    boto3.session.Session().client("s3").create_bucket(Bucket=bucket)
    return bucket


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def moto_bucket(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket on moto."""
    environment = {
        "AWS_ENDPOINT_URL_S3": moto_endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    return _new_bucket(environment, monkeypatch)


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftServer]:
    directory = tmp_path_factory.mktemp("swift")
    reason = why_not(directory)
    if reason is not None:
        pytest.skip(f"OpenStack Swift cannot run here: {reason}")
    server = SwiftServer.start(directory)
    yield server
    server.stop()


@pytest.fixture
def s3_bucket(swift: SwiftServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket on Swift."""
    return _new_bucket(swift.environment(), monkeypatch)


@pytest.fixture
def fault_proxy(swift: SwiftServer, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy between the test and Swift; `s3_bucket` is there, and what is opened from now on goes through it."""
    with FaultProxy(swift.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        yield proxy
