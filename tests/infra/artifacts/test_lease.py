"""Leases: one holder; a dead or silent holder loses it, a live one does not."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from infra.artifacts import lease as lease_module
from infra.artifacts.lease import Lease, LeaseRecord
from infra.errors import LeaseLost
from infra.storage import LocalStorage


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def test_live_lease_is_respected_and_released(storage: LocalStorage) -> None:
    first = Lease.try_acquire(storage, "lease")
    assert first is not None
    assert Lease.try_acquire(storage, "lease") is None
    first.release()
    second = Lease.try_acquire(storage, "lease")
    assert second is not None
    second.release()


def test_lease_of_a_dead_process_is_taken_at_once(storage: LocalStorage) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    dead = replace(LeaseRecord.of_this_process(), pid=child, heartbeat=time.time())
    storage.write("lease", dead.encode())
    taken = Lease.try_acquire(storage, "lease")
    assert taken is not None
    taken.release()


def test_reused_pid_does_not_keep_a_lease(storage: LocalStorage) -> None:
    mine = LeaseRecord.of_this_process()
    storage.write("lease", replace(mine, process_started=mine.process_started - 1000).encode())
    taken = Lease.try_acquire(storage, "lease")
    assert taken is not None
    taken.release()


def test_foreign_host_keeps_its_lease_until_the_heartbeat_expires(storage: LocalStorage) -> None:
    foreign = replace(LeaseRecord.of_this_process(), host="elsewhere", pid=1)
    storage.write("lease", foreign.encode())
    assert Lease.try_acquire(storage, "lease") is None
    silent = replace(foreign, heartbeat=time.time() - lease_module.EXPIRY_SECONDS - 1)
    storage.write("lease", silent.encode())
    taken = Lease.try_acquire(storage, "lease")
    assert taken is not None
    taken.release()


def test_holder_learns_that_it_lost(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.05)
    held = Lease.try_acquire(storage, "lease")
    assert held is not None
    held.check()
    storage.write("lease", LeaseRecord.of_this_process().encode())
    deadline = time.monotonic() + 5
    with pytest.raises(LeaseLost):
        while time.monotonic() < deadline:
            held.check()
            time.sleep(0.02)
    held.release()
    assert json.loads(storage.read("lease")), "the other holder's lease must stay"


def test_heartbeat_is_renewed(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.05)
    held = Lease.try_acquire(storage, "lease")
    assert held is not None
    before = json.loads(storage.read("lease"))["heartbeat"]
    time.sleep(0.3)
    assert json.loads(storage.read("lease"))["heartbeat"] > before
    held.release()
