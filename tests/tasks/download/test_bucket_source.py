"""Bucket sources: what is pinned changes with the objects' content, not only with names and sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import SourceError
from tasks.download.sources import BucketFiles

moto = pytest.importorskip("moto")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> object:
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    with moto.mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="texts")
        yield client


def texts_of(source: BucketFiles, cache: Path) -> list[str]:
    return [record.text for record in source.records(cache)]


def test_an_overwritten_object_is_read_anew(bucket: object, tmp_path: Path) -> None:
    source = BucketFiles(name="mine", uri="s3://texts/logs")
    pins, read = [], []
    for text in ("first", "other"):
        line = f'{{"text": "{text}"}}\n'.encode()
        bucket.put_object(Bucket="texts", Key="logs/a.jsonl", Body=line)  # type: ignore[attr-defined]
        bucket.put_object(Bucket="texts", Key="logs/a.bin", Body=b"skipped")  # type: ignore[attr-defined]
        pinned = source.model_copy(update={"pinned": source.pin(tmp_path)})
        pins.append(pinned.pinned)
        read.append(texts_of(pinned, tmp_path))
    assert read == [["first"], ["other"]]
    assert pins[0] != pins[1]


def test_nothing_readable_is_said(bucket: object, tmp_path: Path) -> None:
    source = BucketFiles(name="mine", uri="s3://texts/nowhere")
    with pytest.raises(SourceError, match=r"'mine'.*no readable object"):
        source.pin(tmp_path)
