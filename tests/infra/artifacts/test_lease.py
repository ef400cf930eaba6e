"""Leases: one holder; a dead or silent holder loses it, a live one does not."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from infra.artifacts import lease as lease_module
from infra.artifacts.lease import Lease, LeaseRecord
from infra.errors import LeaseLost
from infra.storage import Storage, open_storage
from infra.storage import s3_bucket as s3_bucket_module
from tests.support.fault_proxy import Fault, FaultProxy


@pytest.fixture(params=["local", "moto_bucket", "s3_bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Local, S3 with `If-Match`, and S3 without it."""
    if request.param == "local":
        return open_storage(str(tmp_path))
    return open_storage(f"s3://{request.getfixturevalue(request.param)}/root")


def test_live_lease_is_respected_and_released(storage: Storage) -> None:
    first = Lease.try_acquire(storage, "lease")
    assert first is not None
    assert Lease.try_acquire(storage, "lease") is None
    first.release()
    second = Lease.try_acquire(storage, "lease")
    assert second is not None
    second.release()


def test_lease_of_a_dead_process_is_taken_at_once(storage: Storage) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    dead = replace(LeaseRecord.of_this_process(), pid=child, heartbeat=time.time())
    storage.write("lease", dead.encode())
    taken = Lease.try_acquire(storage, "lease")
    assert taken is not None
    taken.release()


def test_reused_pid_does_not_keep_a_lease(storage: Storage) -> None:
    mine = LeaseRecord.of_this_process()
    storage.write("lease", replace(mine, process_started=mine.process_started - 1000).encode())
    taken = Lease.try_acquire(storage, "lease")
    assert taken is not None
    taken.release()


@pytest.mark.parametrize("clock_ahead", [-3600.0, 0.0, 3600.0])
def test_foreign_host_keeps_its_lease_until_it_expires_whatever_its_clock(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, clock_ahead: float
) -> None:
    mine = LeaseRecord.of_this_process()
    foreign = replace(mine, host="elsewhere", pid=1, heartbeat=mine.heartbeat + clock_ahead)
    storage.write("lease", foreign.encode())
    assert Lease.try_acquire(storage, "lease") is None
    monkeypatch.setattr(lease_module, "EXPIRY_SECONDS", -5.0)  # the age is in whole seconds on S3
    taken = Lease.try_acquire(storage, "lease")
    assert taken is not None
    taken.release()


def test_holder_learns_that_it_lost(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.05)
    held = Lease.try_acquire(storage, "lease")
    assert held is not None
    held.check()
    storage.write("lease", LeaseRecord.of_this_process().encode())
    deadline = time.monotonic() + 20
    with pytest.raises(LeaseLost):
        while time.monotonic() < deadline:
            held.check()
            time.sleep(0.02)
    held.release()
    assert json.loads(storage.read("lease")), "the other holder's lease must stay"


def test_heartbeat_is_renewed(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.05)
    held = Lease.try_acquire(storage, "lease")
    assert held is not None
    before = json.loads(storage.read("lease"))["heartbeat"]
    deadline = time.monotonic() + 20
    while json.loads(storage.read("lease"))["heartbeat"] <= before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    held.check()
    held.release()
    assert not storage.exists("lease")


def test_contenders_for_a_dead_lease_do_not_share_it(storage: Storage) -> None:
    mine = LeaseRecord.of_this_process()
    storage.write("lease", replace(mine, process_started=mine.process_started - 1000).encode())
    taken: list[Lease] = []

    def contend() -> None:
        lease = Lease.try_acquire(storage, "lease")
        if lease is not None:
            taken.append(lease)

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    if storage.local_path("") is None:
        storage.write("lease.claim-of-a-dead-process-0", b"")
    taken[0].release()
    assert list(storage.list("lease")) == []


def test_an_outage_does_not_lose_the_lease(
    fault_proxy: FaultProxy, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network fails in the middle of a renewal, its claim stays behind; the next renewals succeed."""
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(s3_bucket_module, "FIRST_DELAY_SECONDS", 0.005)
    monkeypatch.setattr(s3_bucket_module, "LONGEST_DELAY_SECONDS", 0.05)
    storage = open_storage(f"s3://{s3_bucket}/root")
    held = Lease.try_acquire(storage, "lease")
    assert held is not None
    fault = fault_proxy.add(Fault("PUT", "root/lease", status=503, strikes=lambda occurrence: 1 <= occurrence < 30))
    deadline = time.monotonic() + 30
    while fault.seen < 34:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    held.check()
    held.release()
