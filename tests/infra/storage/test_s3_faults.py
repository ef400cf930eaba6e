"""S3Storage against OpenStack Swift through a proxy that misbehaves: the result is right, or one clear error."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import boto3.session
import pytest
from botocore.exceptions import ClientError

from infra.errors import ConfigurationError, PipelineError, SourceError
from infra.storage import S3Storage, open_storage, s3_conditions, s3_transfer
from infra.storage import s3_bucket as requests
from infra.storage.checksum import checksum_file
from tests.support.fault_proxy import Fault, FaultProxy, always, every, first
from tests.support.swift_server import SECRET_KEY, SwiftServer


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "FIRST_DELAY_SECONDS", 0.005)
    monkeypatch.setattr(requests, "LONGEST_DELAY_SECONDS", 0.05)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Parts so small that a few of them make a test (the server is set up to take them)."""
    monkeypatch.setattr(s3_transfer, "PART_BYTES", 256 << 10)
    return 256 << 10


@pytest.fixture
def storage(fault_proxy: FaultProxy, s3_bucket: str) -> S3Storage:
    return S3Storage(s3_bucket, "root")


def random_file(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (429, "")])
def test_busy_server_is_asked_again(storage: S3Storage, fault_proxy: FaultProxy, status: int, code: str) -> None:
    fault = fault_proxy.add(Fault(status=status, code=code, strikes=lambda occurrence: occurrence % 3 != 2))
    storage.write("key", b"content")
    assert storage.read("key") == b"content"
    assert [stored.key for stored in storage.list()] == ["key"]
    storage.delete("key")
    assert not storage.exists("key")
    assert fault.struck >= 8


def test_a_server_that_stays_down_is_one_clear_error(storage: S3Storage, fault_proxy: FaultProxy) -> None:
    fault = fault_proxy.add(Fault(status=503, code="SlowDown", strikes=always))
    with pytest.raises(SourceError, match=r"SlowDown.*run again to continue"):
        storage.write("key", b"content")
    assert fault.struck == requests.ATTEMPTS


@pytest.mark.parametrize("cut", [0, 1, 70_000, 399_999])
def test_read_continues_where_the_body_was_cut(storage: S3Storage, fault_proxy: FaultProxy, cut: int) -> None:
    content = os.urandom(400_000)
    storage.write("key", content)
    fault = fault_proxy.add(Fault("GET", "root/key", cut_response_after=cut, strikes=first(2)))
    assert storage.read("key") == content
    assert fault.struck == 2


def test_a_body_that_is_always_cut_arrives_in_pieces(storage: S3Storage, fault_proxy: FaultProxy) -> None:
    """More cuts than attempts: what counts is progress, not the number of requests."""
    content = os.urandom(requests.ATTEMPTS * 3 * 50_000)
    storage.write("key", content)
    fault = fault_proxy.add(Fault("GET", "root/key", cut_response_after=100_000, strikes=always))
    assert storage.read("key") == content
    assert fault.struck > requests.ATTEMPTS


def test_a_body_that_never_starts_is_one_clear_error(storage: S3Storage, fault_proxy: FaultProxy) -> None:
    storage.write("key", b"content")
    fault_proxy.add(Fault("GET", "root/key", cut_response_after=0, strikes=always))
    with pytest.raises(SourceError, match="root/key' breaks off at byte 0"):
        storage.read("key")


def test_large_download_survives_cut_slow_truncated_and_refused_parts(
    storage: S3Storage, fault_proxy: FaultProxy, small_parts: int, tmp_path: Path
) -> None:
    source = random_file(tmp_path / "source", 4 * small_parts + 12_345)
    storage.upload(source, "big")
    for fault in (
        Fault("GET", "root/big", cut_response_after=small_parts // 2, strikes=every(5, 0)),
        Fault("GET", "root/big", truncate_to=1000, strikes=every(5, 1)),
        Fault("GET", "root/big", status=503, code="SlowDown", strikes=every(5, 2)),
        Fault("GET", "root/big", bytes_per_second=2e6, strikes=every(5, 3)),
    ):
        fault_proxy.add(fault)
    storage.download("big", tmp_path / "copy")
    assert checksum_file(tmp_path / "copy") == checksum_file(source)
    assert all(fault.struck for fault in fault_proxy.faults)


def test_damaged_body_is_noticed_and_fetched_again(storage: S3Storage, fault_proxy: FaultProxy, tmp_path: Path) -> None:
    storage.write("key", b"x" * 1000)
    fault_proxy.add(Fault("GET", "root/key", flip_byte=500))
    storage.download("key", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"x" * 1000
    fault_proxy.add(Fault("GET", "root/key", flip_byte=500, strikes=always))
    with pytest.raises(SourceError, match="does not match its checksum"):
        storage.download("key", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["copy"]


def test_object_replaced_between_two_parts_is_read_anew(
    storage: S3Storage, fault_proxy: FaultProxy, small_parts: int, s3_bucket: str, tmp_path: Path
) -> None:
    old, new = (random_file(tmp_path / name, 3 * small_parts) for name in ("old", "new"))
    storage.upload(old, "big")
    fault_proxy.add(
        Fault("GET", "root/big", before=lambda: storage.upload(new, "big"), strikes=lambda number: number == 1)
    )
    storage.download("big", tmp_path / "copy")
    assert checksum_file(tmp_path / "copy") == checksum_file(new)


def test_error_answers_are_cut_too(storage: S3Storage, fault_proxy: FaultProxy) -> None:
    storage.create("warm", b"")
    fault = fault_proxy.add(Fault("", "root/", cut_response_after=20, strikes=every(2)))
    with pytest.raises(FileNotFoundError):
        storage.read("missing")
    assert not storage.create("warm", b"other")
    assert fault.struck >= 2


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", "partNumber=2", cut_request_after=100_000, strikes=first(2)),
        Fault("PUT", "partNumber=3", status=503, code="SlowDown", strikes=first(3)),
        Fault("PUT", "partNumber=1", lose_answer=True),
        Fault("POST", "uploadId=", lose_answer=True),
        Fault("POST", "uploads", lose_answer=True),
    ],
    ids=["cut", "slow down", "lost part answer", "lost completion", "lost beginning"],
)
def test_large_upload_survives(
    storage: S3Storage, fault_proxy: FaultProxy, small_parts: int, tmp_path: Path, fault: Fault
) -> None:
    source = random_file(tmp_path / "source", 3 * small_parts)
    fault_proxy.add(fault)
    storage.upload(source, "big")
    assert fault.struck
    storage.download("big", tmp_path / "copy")
    assert checksum_file(tmp_path / "copy") == checksum_file(source)


def unfinished_uploads(bucket: str) -> list[str]:
    answer = boto3.session.Session().client("s3").list_multipart_uploads(Bucket=bucket)
    return [upload["Key"] for upload in answer.get("Uploads", [])]


def test_failed_upload_is_aborted(
    storage: S3Storage, fault_proxy: FaultProxy, small_parts: int, tmp_path: Path, s3_bucket: str
) -> None:
    source = random_file(tmp_path / "source", 3 * small_parts)
    fault_proxy.add(Fault("PUT", "partNumber=2", status=503, code="SlowDown", strikes=always))
    with pytest.raises(SourceError, match="SlowDown"):
        storage.upload(source, "big")
    assert unfinished_uploads(s3_bucket) == []
    assert not storage.exists("big")


def test_uploads_of_killed_processes_are_found_and_aborted(storage: S3Storage, s3_bucket: str) -> None:
    client = boto3.session.Session().client("s3")
    for key in ("root/mine/a", "root/mine/b", "root/other/c"):
        upload = client.create_multipart_upload(Bucket=s3_bucket, Key=key)["UploadId"]
        client.upload_part(Bucket=s3_bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x")
    assert storage.discard_unfinished("mine/") == 2
    assert unfinished_uploads(s3_bucket) == ["root/other/c"]


def fill(storage: S3Storage, count: int) -> list[str]:
    names = [f"k{number:02d}" for number in range(count)]
    for name in names:
        storage.write(name, b"")
    return names


@pytest.fixture
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = requests.Bucket.attempt

    def paged(self: requests.Bucket, operation: str, **arguments: Any) -> dict[str, Any]:
        more = {"MaxKeys": 4} if operation == "list_objects_v2" else {}
        return attempt(self, operation, **arguments, **more)

    monkeypatch.setattr(requests.Bucket, "attempt", paged)


@pytest.mark.usefixtures("short_pages")
def test_listing_goes_on_when_continuation_tokens_expire(
    storage: S3Storage, fault_proxy: FaultProxy, s3_bucket: str
) -> None:
    names = fill(storage, 11)
    fault_proxy.add(Fault("GET", "continuation-token", status=400, code="InvalidArgument", strikes=always))
    client = boto3.session.Session().client("s3")
    with pytest.raises(ClientError):  # boto3's own paginator cannot
        list(client.get_paginator("list_objects_v2").paginate(Bucket=s3_bucket, PaginationConfig={"PageSize": 4}))
    assert [stored.key for stored in storage.list()] == names


@pytest.mark.usefixtures("short_pages")
def test_listing_survives_repeated_pages_and_cut_answers(storage: S3Storage, fault_proxy: FaultProxy) -> None:
    names = fill(storage, 11)
    repeated = fault_proxy.add(Fault("GET", "list-type=2", repeat_page=True, strikes=every(3, 1)))
    cut = fault_proxy.add(Fault("GET", "list-type=2", cut_response_after=100, strikes=every(3, 2)))
    assert [stored.key for stored in storage.list()] == names
    assert repeated.struck
    assert cut.struck


@pytest.mark.usefixtures("short_pages")
def test_listing_that_never_advances_is_one_clear_error(storage: S3Storage, fault_proxy: FaultProxy) -> None:
    fill(storage, 6)
    fault_proxy.add(Fault("GET", "start-after", repeat_page=True, strikes=always))
    with pytest.raises(SourceError, match="stays at 'root/k03'"):
        list(storage.list())


@pytest.mark.usefixtures("short_pages")
def test_keys_that_come_and_go_while_listing_do_no_harm(storage: S3Storage, fault_proxy: FaultProxy) -> None:
    names = fill(storage, 9)

    def change() -> None:
        storage.delete("k03")  # the key the next page begins after
        storage.write("k055", b"")

    fault_proxy.add(Fault("GET", "start-after", before=change))
    assert [stored.key for stored in storage.list()] == sorted([*names, "k055"])


@pytest.mark.parametrize("operation", ["create", "replace"])
def test_conditional_write_whose_answer_was_lost_counts_as_ours(
    storage: S3Storage, fault_proxy: FaultProxy, operation: str
) -> None:
    storage.create("warm", b"")  # what the server can do has been found out
    storage.write("old", b"old")
    _, version = storage.read_versioned("old")
    fault = fault_proxy.add(Fault("PUT", "root/", lose_answer=True))
    won = storage.create("new", b"mine") if operation == "create" else storage.replace("old", b"mine", version)
    assert won
    assert fault.struck == 1
    assert storage.read("new" if operation == "create" else "old") == b"mine"
    assert not storage.create("new" if operation == "create" else "old", b"mine"), "a second time it is taken"


def test_conditional_write_answered_late_does_not_steal(storage: S3Storage, fault_proxy: FaultProxy) -> None:
    """The same bytes written by somebody else are not ours."""
    storage.create("warm", b"")
    fault_proxy.add(Fault("PUT", "root/key", before=lambda: storage.write("key", b"same")))
    assert not storage.create("key", b"same")


def test_a_claim_of_a_dead_process_is_passed_over(storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write("key", b"old")
    _, version = storage.read_versioned("key")
    etag = version.strip('"')
    storage.write(f"key.claim-{etag}-0", b"a process that died here")
    assert not storage.replace("key", b"new", version), "young: its process may live"
    monkeypatch.setattr(s3_conditions, "CLAIM_SECONDS", -5.0)
    assert storage.replace("key", b"new", version)
    assert [stored.key for stored in storage.list()] == ["key"]


def test_a_server_that_ignores_the_condition_is_refused(moto_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = S3Storage(moto_bucket)
    attempt = requests.Bucket.attempt

    def ignoring(self: requests.Bucket, operation: str, **arguments: Any) -> dict[str, Any]:
        arguments.pop("IfNoneMatch", None)
        return attempt(self, operation, **arguments)

    monkeypatch.setattr(requests.Bucket, "attempt", ignoring)
    with pytest.raises(ConfigurationError, match=r"does not create objects once \(If-None-Match"):
        storage.create("key", b"")


def test_if_match_is_used_where_the_server_has_it(moto_bucket: str) -> None:
    storage = S3Storage(moto_bucket)
    storage.write("key", b"old")
    _, version = storage.read_versioned("key")
    assert storage.replace("key", b"new", version)
    assert storage._conditional._matches
    assert [stored.key for stored in storage.list()] == ["key"], "the probe left nothing"


@pytest.mark.parametrize("changed", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials_name_bucket_and_variable_but_no_secret(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    monkeypatch.setenv(changed, "not-the-right-one")
    storage = open_storage(f"s3://{s3_bucket}/root")
    actions = (
        lambda: storage.read("key"),
        lambda: storage.write("key", b""),
        lambda: storage.create("key", b""),
        lambda: list(storage.list()),
        lambda: storage.exists("key"),
    )
    for action in actions:
        with pytest.raises(PipelineError, match="AWS_SECRET_ACCESS_KEY") as caught:
            action()
        assert s3_bucket in str(caught.value)
        assert SECRET_KEY not in str(caught.value)
        assert "not-the-right-one" not in str(caught.value)


def test_no_credentials_at_all(s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=f"credentials for bucket '{s3_bucket}'.*AWS_ACCESS_KEY_ID"):
        open_storage(f"s3://{s3_bucket}/root").read("key")


@pytest.mark.usefixtures("s3_bucket")
def test_missing_bucket_is_one_clear_error_whatever_is_asked() -> None:
    storage = S3Storage("no-such-bucket-here")
    for action in (
        lambda: storage.read("key"),
        lambda: storage.write("key", b"x"),
        lambda: storage.create("key", b"x"),
        lambda: storage.exists("key"),
        lambda: list(storage.list()),
    ):
        with pytest.raises(ConfigurationError, match="'no-such-bucket-here' does not exist"):
            action()


def test_wrong_endpoint_is_named_soon(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"nothing answers at 'http://127.0.0.1:9'.*AWS_ENDPOINT_URL_S3"):
        S3Storage(s3_bucket).read("key")


def test_wrong_region_names_the_right_one(storage: S3Storage, fault_proxy: FaultProxy) -> None:
    fault_proxy.add(Fault(status=400, code="AuthorizationHeaderMalformed", strikes=always))
    with pytest.raises(ConfigurationError, match=r"in another region.*AWS_REGION"):
        storage.write("key", b"")


def test_either_name_of_the_region_variable_counts(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv("AWS_REGION", raising=False)
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        monkeypatch.setenv(name, "eu-west-3")
        assert requests.Bucket(s3_bucket)._client.meta.region_name == "eu-west-3"


def test_clock_skew_says_how_much(swift: SwiftServer, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one: the request is signed by a clock that is half an hour fast."""
    ahead = timedelta(minutes=30)
    import botocore.auth

    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_: datetime.now(UTC) + ahead)
    with pytest.raises(ConfigurationError, match=r"RequestTimeTooSkewed|clock is .* seconds") as caught:
        S3Storage(s3_bucket).write("key", b"")
    assert "NTP" in str(caught.value)


def test_clock_difference_is_taken_from_the_servers_answer(storage: S3Storage, fault_proxy: FaultProxy) -> None:
    past = format_datetime(datetime.now(UTC) - timedelta(hours=2), usegmt=True)
    monkey = Fault("PUT", status=403, code="RequestTimeTooSkewed", strikes=always, set_header=("Date", past))
    fault_proxy.add(monkey)
    with pytest.raises(ConfigurationError, match=r"clock is 7\d\d\d seconds ahead of the server's"):
        storage.write("key", b"")


def test_uploads_run_in_threads_with_one_client(storage: S3Storage, fault_proxy: FaultProxy, tmp_path: Path) -> None:
    fault_proxy.add(Fault(status=503, code="SlowDown", strikes=every(5)))
    files = [random_file(tmp_path / f"f{number}", 10_000 + number) for number in range(12)]
    threads = [threading.Thread(target=storage.upload, args=(path, path.name)) for path in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {stored.key: storage.read(stored.key) for stored in storage.list()} == {
        path.name: path.read_bytes() for path in files
    }


def test_local_storage_does_not_import_boto3(tmp_path: Path) -> None:
    code = (
        "import sys; from infra.storage import open_storage; from infra.artifacts import ArtifactStore; "
        f"open_storage({str(tmp_path)!r}).write('a', b''); sys.exit('boto3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
