"""Sources and artifacts in a bucket, download to tokens: the same artifacts as on a local disk, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.storage import S3Storage
from infra.storage import s3_bucket as requests
from tests.infra.artifacts import data_chain
from tests.support.fault_proxy import Fault, FaultProxy, every

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def local_checksums(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The chain on local disk, from local files."""
    directory = tmp_path_factory.mktemp("local")
    (directory / "corpus").mkdir()
    for name, content in data_chain.corpus_files().items():
        (directory / "corpus" / name).write_bytes(content)
    outcomes = data_chain.run_chain(str(directory / "root"), directory / "cache", str(directory / "corpus"))
    return data_chain.checksums(outcomes)


@pytest.fixture
def source(s3_bucket: str) -> str:
    storage = S3Storage(s3_bucket, "corpus")
    for name, content in data_chain.corpus_files().items():
        storage.write(name, content)
    return f"s3://{s3_bucket}/corpus"


@pytest.mark.slow
def test_chain_in_a_bucket_equals_the_local_one(
    source: str, s3_bucket: str, tmp_path: Path, local_checksums: list[str]
) -> None:
    root = f"s3://{s3_bucket}/root"
    outcomes = data_chain.run_chain(root, tmp_path / "a", source)
    assert data_chain.checksums(outcomes) == local_checksums
    again = data_chain.run_chain(root, tmp_path / "b", source)
    assert all(outcome.reused for outcome in again), "another machine reuses everything"
    assert data_chain.checksums(again) == local_checksums
    kept = {entry.path for outcome in outcomes for entry in outcome.artifact.manifest.files} | {"manifest.json"}
    left = [stored.key for stored in S3Storage(s3_bucket, "root").list()]
    assert all(key.split("/", 2)[2] in kept for key in left), "markers, scratch files and leases are gone"


@pytest.mark.slow
def test_chain_through_a_bad_network_equals_the_local_one(
    source: str,
    fault_proxy: FaultProxy,
    s3_bucket: str,
    tmp_path: Path,
    local_checksums: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requests, "FIRST_DELAY_SECONDS", 0.02)
    faults = (
        Fault(status=503, code="SlowDown", strikes=every(9, 1)),
        Fault("GET", "corpus/", cut_response_after=30_000, strikes=every(2)),
        Fault("GET", "root/", cut_response_after=500, strikes=every(7, 2)),
        Fault("PUT", "root/", cut_request_after=200, strikes=every(11, 3)),
        Fault("PUT", "root/", lose_answer=True, strikes=every(13, 4)),
        Fault("GET", "corpus/", flip_byte=10, strikes=every(5, 3)),
        Fault("GET", "", bytes_per_second=1e6, strikes=every(10, 5)),
        Fault("GET", "", truncate_to=100, strikes=every(17, 6)),
    )
    for fault in faults:
        fault_proxy.add(fault)
    outcomes = data_chain.run_chain(f"s3://{s3_bucket}/root", tmp_path / "a", source)
    assert data_chain.checksums(outcomes) == local_checksums
    assert sum(fault.struck for fault in faults) > 50
    again = data_chain.run_chain(f"s3://{s3_bucket}/root", tmp_path / "b", source)
    assert all(outcome.reused for outcome in again)


#: The request at which the chain is killed: before the server gets it, or once the server has carried it out.
KILLS = (
    ("in the second download marker", "raw_documents/", "/.shards/", 1, False),
    ("in the first judged shard's file", "filtered_documents/", "/.scratch/", 0, True),
    ("after a quality marker", "filtered_documents/", "/.shards/", 3, True),
    ("at a manifest, once it is there", "filtered_documents/", "manifest.json", 0, True),
    ("in deduplication", "unique_documents/", "/.shards/", 2, True),
    ("in a token shard", "tokens/", ".bin", 1, True),
    ("at the last manifest", "tokens/", "manifest.json", 0, False),
)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_chain_continues_on_empty_machines(
    source: str, fault_proxy: FaultProxy, s3_bucket: str, tmp_path: Path, local_checksums: list[str], workers: int
) -> None:
    root = f"s3://{s3_bucket}/root"
    kills = KILLS if workers == 1 else KILLS[2::3]
    for number, (_, artifact, part, occurrence, carried_out) in enumerate(kills):
        fault_proxy.clear()
        command = [data_chain.__file__, root, str(tmp_path / f"machine-{number}"), source, str(workers)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stderr=subprocess.PIPE)

        def kill(child: subprocess.Popen[bytes] = child) -> None:
            child.kill()
            child.wait()

        fault = Fault("PUT", f"root/{artifact}", part, strikes=lambda seen, wanted=occurrence: seen == wanted)
        if carried_out:
            fault.after, fault.lose_answer = kill, True
        else:
            fault.before, fault.cut_request_after = kill, 10
        fault_proxy.add(fault)
        _, errors = child.communicate(timeout=300)
        assert child.returncode == -signal.SIGKILL, (kills[number], errors.decode()[-2000:])
    fault_proxy.clear()
    outcomes = data_chain.run_chain(root, tmp_path / "last", source, workers)
    assert data_chain.checksums(outcomes) == local_checksums
    assert outcomes[0].reused
