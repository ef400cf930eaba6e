"""Building into a bucket: uploads beside the computing, nothing left behind, kill and outage continue elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from infra.artifacts import ArtifactStore, Stage, StageConfig, StageContext, StageResult, build_stage, plan_fingerprint
from infra.artifacts import shards as shards_module
from infra.errors import LeaseLost, SourceError
from infra.storage import s3_bucket as requests
from infra.storage.checksum import checksum_bytes
from tests.support.fault_proxy import Fault, FaultProxy, always, every


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "FIRST_DELAY_SECONDS", 0.005)
    monkeypatch.setattr(requests, "LONGEST_DELAY_SECONDS", 0.05)


class NumbersConfig(StageConfig):
    shard_count: int = 4


def content(index: int) -> bytes:
    return b"%d" % index * 1000


def write_numbers(context: StageContext[NumbersConfig], built: list[int] | None = None) -> StageResult:
    scratch = context.directory / shards_module.SCRATCH_DIRECTORY
    scratch.mkdir(exist_ok=True)
    for index in range(context.config.shard_count):
        if not context.shards.is_done(f"round/{index}"):
            (scratch / f"{index}").write_bytes(b"scratch")
            (context.directory / f"{index}.bin").write_bytes(content(index))
            context.shards.finish(f"round/{index}", [context.directory / f"{index}.bin", scratch / f"{index}"])
            if built is not None:
                built.append(index)
        context.report(index / context.config.shard_count, "", None)
    (context.directory / "summary.txt").write_text("done")
    return StageResult()


STAGE = Stage("numbers", "numbers", 1, NumbersConfig, write_numbers)
FINGERPRINT = plan_fingerprint(STAGE, NumbersConfig(), {})
FILES = ["0.bin", "1.bin", "2.bin", "3.bin", "manifest.json", "summary.txt"]


def open_store(bucket: str, machine: Path) -> ArtifactStore:
    return ArtifactStore.open(f"s3://{bucket}/artifacts", machine)


def keys_of(store: ArtifactStore) -> list[str]:
    prefix = f"numbers/{FINGERPRINT}/"
    return [stored.key.removeprefix(prefix) for stored in store.storage.list()]


def test_only_the_artifact_stays_in_the_bucket(s3_bucket: str, tmp_path: Path) -> None:
    store = open_store(s3_bucket, tmp_path)
    artifact = build_stage(STAGE, NumbersConfig(), {}, store).artifact
    assert keys_of(store) == FILES, "no markers, scratch files, leases or probes"
    assert all(checksum_bytes(content(index)) == artifact.manifest.files[index].checksum for index in range(4))


def test_each_file_is_uploaded_once_and_beside_the_computing(
    fault_proxy: FaultProxy, s3_bucket: str, tmp_path: Path
) -> None:
    seen_while_running: list[list[str]] = []

    def slow(context: StageContext[NumbersConfig]) -> StageResult:
        result = write_numbers(context)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not any("3.json" in path for _, path in fault_proxy.requests):
            time.sleep(0.02)
        seen_while_running.append([path for method, path in fault_proxy.requests if method == "PUT"])
        return result

    store = open_store(s3_bucket, tmp_path)
    build_stage(Stage("numbers", "numbers", 1, NumbersConfig, slow), NumbersConfig(), {}, store)
    during = seen_while_running[0]
    puts = [path for method, path in fault_proxy.requests if method == "PUT"]
    for index in range(4):
        assert sum(f"/{index}.bin" in path for path in puts) == 1
        assert sum(f"/{index}.bin" in path for path in during) == 1, "before the stage had ended"


def test_scratch_removed_before_its_upload_is_no_error(fault_proxy: FaultProxy, s3_bucket: str, tmp_path: Path) -> None:
    def removes(context: StageContext[NumbersConfig]) -> StageResult:
        result = write_numbers(context)
        for path in (context.directory / shards_module.SCRATCH_DIRECTORY).iterdir():
            path.unlink()
        return result

    stage = Stage("numbers", "numbers", 1, NumbersConfig, removes)
    fault_proxy.add(Fault("PUT", ".bin", before=lambda: time.sleep(0.3), strikes=always))
    store = open_store(s3_bucket, tmp_path)
    build_stage(stage, NumbersConfig(), {}, store)
    assert keys_of(store) == FILES


def test_lost_file_that_is_not_scratch_is_an_error(fault_proxy: FaultProxy, s3_bucket: str, tmp_path: Path) -> None:
    def loses(context: StageContext[NumbersConfig]) -> StageResult:
        for index in range(8):
            path = context.directory / f"{index}.bin"
            path.write_bytes(b"x")
            context.shards.finish(str(index), [path])
            path.unlink()
        return StageResult()

    fault_proxy.add(Fault("PUT", ".bin", before=lambda: time.sleep(0.2), strikes=always))
    stage = Stage("numbers", "numbers", 1, NumbersConfig, loses)
    with pytest.raises(FileNotFoundError, match=r"\.bin"):
        build_stage(stage, NumbersConfig(), {}, open_store(s3_bucket, tmp_path))


def test_outage_fails_the_stage_and_the_next_run_continues(
    fault_proxy: FaultProxy, s3_bucket: str, tmp_path: Path
) -> None:
    outage = fault_proxy.add(Fault("PUT", "/2.bin", status=503, code="SlowDown", strikes=always))
    with pytest.raises(SourceError, match=r"2\.bin.*SlowDown.*finished shards are kept"):
        build_stage(STAGE, NumbersConfig(), {}, open_store(s3_bucket, tmp_path / "a"))
    outage.status, outage.before = 0, lambda: None
    built: list[int] = []

    def counting(context: StageContext[NumbersConfig]) -> StageResult:
        return write_numbers(context, built)

    store = open_store(s3_bucket, tmp_path / "b")
    build_stage(Stage("numbers", "numbers", 1, NumbersConfig, counting), NumbersConfig(), {}, store)
    assert 2 in built
    assert 0 not in built
    assert keys_of(store) == FILES


def test_tidying_that_is_refused_does_not_fail_a_finished_stage(
    fault_proxy: FaultProxy, s3_bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused = fault_proxy.add(Fault("GET", "?uploads", status=403, code="AccessDenied", strikes=always))
    store = open_store(s3_bucket, tmp_path)
    assert not build_stage(STAGE, NumbersConfig(), {}, store).reused
    assert refused.struck
    assert "s3:ListBucketMultipartUploads" in caplog.text
    assert build_stage(STAGE, NumbersConfig(), {}, store).reused


def test_build_through_a_bad_network(fault_proxy: FaultProxy, s3_bucket: str, tmp_path: Path) -> None:
    for fault in (
        Fault(status=503, code="SlowDown", strikes=every(7, 2)),
        Fault("PUT", "", cut_request_after=100, strikes=every(7, 4)),
        Fault("PUT", "", lose_answer=True, strikes=every(7, 5)),
        Fault("GET", "", cut_response_after=60, strikes=every(5, 3)),
    ):
        fault_proxy.add(fault)
    store = open_store(s3_bucket, tmp_path / "a")
    first = build_stage(STAGE, NumbersConfig(), {}, store)
    other = build_stage(STAGE, NumbersConfig(), {}, open_store(s3_bucket, tmp_path / "b"))
    assert not first.reused
    assert other.reused
    assert keys_of(store) == FILES
    assert [path.read_bytes() for path in other.artifact.paths(suffix=".bin")] == [content(index) for index in range(4)]
    assert all(fault.struck for fault in fault_proxy.faults)


def test_shards_of_another_machine_are_fetched_in_parallel(
    fault_proxy: FaultProxy, s3_bucket: str, tmp_path: Path
) -> None:
    config = NumbersConfig(shard_count=12)

    def dies(context: StageContext[NumbersConfig]) -> StageResult:
        write_numbers(context)
        raise RuntimeError("taken away")

    dying = Stage("numbers", "numbers", 1, NumbersConfig, dies)
    with pytest.raises(RuntimeError, match="taken away"):
        build_stage(dying, config, {}, open_store(s3_bucket, tmp_path / "a"))
    together: list[int] = []
    active = 0
    lock = threading.Lock()

    def count() -> None:
        nonlocal active
        with lock:
            active += 1
            together.append(active)
        time.sleep(0.1)
        with lock:
            active -= 1

    fault_proxy.add(Fault("GET", ".bin", before=count, strikes=always))
    built: list[int] = []

    def counting(context: StageContext[NumbersConfig]) -> StageResult:
        return write_numbers(context, built)

    build_stage(Stage("numbers", "numbers", 1, NumbersConfig, counting), config, {}, open_store(s3_bucket, tmp_path))
    assert built == []
    assert max(together) >= 3


def test_damaged_shard_in_the_bucket_is_built_again(s3_bucket: str, tmp_path: Path) -> None:
    def dies(context: StageContext[NumbersConfig]) -> StageResult:
        write_numbers(context)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        build_stage(
            Stage("numbers", "numbers", 1, NumbersConfig, dies), NumbersConfig(), {}, open_store(s3_bucket, tmp_path)
        )
    store = open_store(s3_bucket, tmp_path / "b")
    store.storage.write(f"numbers/{FINGERPRINT}/1.bin", b"damaged")
    store.storage.write(f"numbers/{FINGERPRINT}/.shards/round/2.json", b"{")
    built: list[int] = []

    def counting(context: StageContext[NumbersConfig]) -> StageResult:
        return write_numbers(context, built)

    artifact = build_stage(Stage("numbers", "numbers", 1, NumbersConfig, counting), NumbersConfig(), {}, store).artifact
    assert built == [1, 2]
    assert store.storage.read(f"numbers/{FINGERPRINT}/1.bin") == content(1)
    assert len(artifact.manifest.files) == 5


def test_second_publisher_of_other_content_is_told(s3_bucket: str, tmp_path: Path) -> None:
    store = open_store(s3_bucket, tmp_path / "a")
    manifest = build_stage(STAGE, NumbersConfig(), {}, store).artifact.manifest
    same = store.publish(manifest, tmp_path / "a" / "numbers" / FINGERPRINT)
    assert same.manifest == manifest
    other = manifest.model_copy(update={"files": manifest.files[:2]})
    with pytest.raises(LeaseLost, match="other content"):
        store.publish(other, tmp_path / "a" / "numbers" / FINGERPRINT)


KILLED = """
import os, signal, sys
from pathlib import Path
from infra.storage import S3Storage
from tests.infra.artifacts.test_builder_on_s3 import *
store = open_store(sys.argv[1], Path(sys.argv[2]))
uploads = []
original = S3Storage.write
def write(self, key, data):
    original(self, key, data)
    if ".shards/round/" in key:
        uploads.append(key)
        if len(uploads) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
S3Storage.write = write
build_stage(STAGE, NumbersConfig(), {}, store)
"""


def test_sigkill_continues_on_another_machine(s3_bucket: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, s3_bucket, str(tmp_path / "a")]
    root = Path(__file__).parents[3]
    killed = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    store = open_store(s3_bucket, tmp_path / "b")
    markers = [key for key in keys_of(store) if ".shards/" in key]
    assert len(markers) >= 2
    built: list[int] = []

    def counting(context: StageContext[NumbersConfig]) -> StageResult:
        return write_numbers(context, built)

    artifact = build_stage(Stage("numbers", "numbers", 1, NumbersConfig, counting), NumbersConfig(), {}, store).artifact
    assert len(built) == 4 - len(markers)
    assert keys_of(store) == FILES
    assert [path.read_bytes() for path in artifact.paths(suffix=".bin")] == [content(index) for index in range(4)]
