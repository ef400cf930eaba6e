"""Leases: at most one builder an artifact, and none for ever.

A lease is a small object `{owner, host, pid, started, heartbeat}` created once and renewed by a
thread. Others wait while it is fresh. It is taken over when it was last written more than `EXPIRY_SECONDS`
ago by the storage's own clock (the holders' clocks may differ), or at once when its process is gone from this
same host. A builder whose lease was taken over learns it at its next progress report and stops (LeaseLost).
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

import psutil

from infra.errors import LeaseLost, PipelineError
from infra.storage.interface import Storage

HEARTBEAT_SECONDS = 5.0
EXPIRY_SECONDS = 45.0


def lease_key(kind: str, fingerprint: str) -> str:
    """Where the lease of an artifact's builder is."""
    return f".leases/{kind}-{fingerprint}.json"


@dataclass(frozen=True)
class LeaseRecord:
    """The stored form of a lease. Times are Unix seconds."""

    owner: str
    host: str
    pid: int
    process_started: float
    heartbeat: float

    @classmethod
    def of_this_process(cls) -> LeaseRecord:
        started = psutil.Process().create_time()
        return cls(uuid.uuid4().hex, socket.gethostname(), os.getpid(), started, time.time())

    def is_dead(self, age_seconds: float) -> bool:
        """Whether the holder of a lease renewed so long ago can no longer be working."""
        if age_seconds > EXPIRY_SECONDS:
            return True
        return self.host == socket.gethostname() and not _process_lives(self.pid, self.process_started)

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def _process_lives(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Lease:
    """A held lease, renewed in the background until `release`."""

    def __init__(self, storage: Storage, key: str, record: LeaseRecord) -> None:
        self._storage = storage
        self._key = key
        self._record = record
        self._stopped = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease {key}", daemon=True)
        self._thread.start()

    @classmethod
    def try_acquire(cls, storage: Storage, key: str) -> Lease | None:
        """Take the lease, or return None while another live builder holds it."""
        record = LeaseRecord.of_this_process()
        if storage.create(key, record.encode()):
            return cls(storage, key, record)
        try:
            data, version = storage.read_versioned(key)
            age_seconds = storage.age_seconds(key)
            holder = LeaseRecord(**json.loads(data))
        except FileNotFoundError:
            return None  # released this very moment: the caller asks again
        except (ValueError, TypeError):
            return cls(storage, key, record) if storage.replace(key, record.encode(), version) else None
        if holder.is_dead(age_seconds) and storage.replace(key, record.encode(), version):
            return cls(storage, key, record)
        return None

    def check(self) -> None:
        """Raise LeaseLost when another process has taken over."""
        if self._lost.is_set():
            raise LeaseLost(
                f"another process took over '{self._key}': our heartbeat had stopped.",
                "nothing to do; the other process finishes the artifact.",
            )

    def release(self) -> None:
        """Stop renewing and remove the lease, if it is still ours; one that cannot be removed expires."""
        self._stopped.set()
        self._thread.join()
        # Called while an error is on its way: that one matters, not the storage's.
        with suppress(PipelineError):
            if self._is_ours():
                self._storage.delete(self._key)
                if self._storage.local_path(self._key) is None:
                    # Claims on its versions that killed processes left (see `ConditionalWrites`).
                    self._storage.delete_many([stored.key for stored in self._storage.list(f"{self._key}.")])

    def _is_ours(self) -> bool:
        try:
            return bool(json.loads(self._storage.read(self._key))["owner"] == self._record.owner)
        except (FileNotFoundError, ValueError, KeyError):
            return False

    def _renew(self) -> None:
        while not self._stopped.wait(HEARTBEAT_SECONDS):
            try:
                data, version = self._storage.read_versioned(self._key)
                ours = json.loads(data)["owner"] == self._record.owner
                renewed = replace(self._record, heartbeat=time.time())
                if not ours or not (self._storage.replace(self._key, renewed.encode(), version) or self._is_ours()):
                    self._lost.set()
                    return
            except (FileNotFoundError, ValueError, KeyError):
                self._lost.set()
                return
            except Exception:  # noqa: BLE001, S112 - a full disk or a network fault: try again until expiry
                continue
