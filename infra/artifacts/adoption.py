"""Unfinished work goes on under another fingerprint: what a stopped build has in its scratch is handed over.

For work that is valid for both: checkpoints of a training stage are those of the same stage made shorter later on.
Nothing is lost at any point: a file is first at its new place and then gone from its old one, and calling again
completes what a kill has cut short. Finished artifacts are not touched.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from infra.artifacts.lease import EXPIRY_SECONDS, HEARTBEAT_SECONDS, Lease, lease_key
from infra.artifacts.shards import SCRATCH_DIRECTORY
from infra.artifacts.store import ArtifactStore
from infra.errors import PipelineError
from infra.storage.local import explained_write_errors, sync_directory

#: A builder on another machine that died holds its lease until it expires.
PATIENCE_SECONDS = EXPIRY_SECONDS + 2 * HEARTBEAT_SECONDS
_POLL_SECONDS = 0.5


class BuildGoesOn(PipelineError):
    """An artifact is being built by a living process."""


def adopt_unfinished(
    store: ArtifactStore,
    kind: str,
    from_fingerprint: str,
    to_fingerprint: str,
    *,
    files: Sequence[str] = (),
    patience_seconds: float = PATIENCE_SECONDS,
) -> bool:
    """Hand a stopped build's scratch, and what it has of `files`, over to another artifact of its kind.

    files: names in the build's directory on this machine, of files or directories. What the other artifact has
    already stays as it is, so that calling again is safe; so do both when either is finished. Remote scratch is
    handed over where storage is remote. Returns whether anything was handed over by this call.

    Raises BuildGoesOn while a living process builds one of them, for `patience_seconds`.
    """
    if from_fingerprint == to_fingerprint:
        return False
    with _both_leases(store, kind, (from_fingerprint, to_fingerprint), patience_seconds) as leases:
        if any(store.has_manifest(kind, fingerprint) for fingerprint in (from_fingerprint, to_fingerprint)):
            return False
        moved = _move_here(store, kind, from_fingerprint, to_fingerprint, (SCRATCH_DIRECTORY, *files))
        if store.storage.local_path("") is None:
            source, target = (
                f"{store.prefix(kind, name)}/{SCRATCH_DIRECTORY}/" for name in (from_fingerprint, to_fingerprint)
            )
            # A kill leaves a temporary file, which the next build there removes.
            passing = store.working_directory(kind, to_fingerprint) / ".tmp-adopted"
            moved |= _move_there(store, source, target, passing, leases)
    return moved


@contextmanager
def _both_leases(
    store: ArtifactStore, kind: str, fingerprints: Sequence[str], patience_seconds: float
) -> Iterator[list[Lease]]:
    leases: list[Lease] = []
    try:
        for fingerprint in sorted(fingerprints):  # in one order: two who adopt at once do not wait for each other
            leases.append(_wait_for(store, kind, fingerprint, time.monotonic() + patience_seconds))
        yield leases
    finally:
        for lease in leases:
            lease.release()


def _wait_for(store: ArtifactStore, kind: str, fingerprint: str, deadline: float) -> Lease:
    while True:
        lease = Lease.try_acquire(store.storage, lease_key(kind, fingerprint))
        if lease is not None:
            return lease
        if time.monotonic() >= deadline:
            raise BuildGoesOn(
                f"{kind} {fingerprint[:12]} is being built by another process, which has what was to be handed over.",
                "stop that run, or wait for its end; then run again.",
            )
        time.sleep(_POLL_SECONDS)


def _move_here(store: ArtifactStore, kind: str, source: str, target: str, names: Sequence[str]) -> bool:
    """By renaming, which is one operation for a whole directory."""
    before, after = store.working_directory(kind, source), store.working_directory(kind, target)
    moved = False
    for name in names:
        if not _has_files(before / name) or _has_files(after / name):
            continue
        shutil.rmtree(after / name, ignore_errors=True)  # of empty directories
        (before / name).rename(after / name)
        moved = True
    if moved:
        sync_directory(after)
        sync_directory(before)
    return moved


def _has_files(path: Path) -> bool:
    return path.is_file() or any(below.is_file() for below in path.rglob("*"))


def _move_there(store: ArtifactStore, source: str, target: str, passing: Path, leases: Sequence[Lease]) -> bool:
    """By copying every object through the file `passing`, then removing them at their old place."""
    storage = store.storage
    found = [stored.key.removeprefix(source) for stored in storage.list(source)]
    there = {stored.key.removeprefix(target) for stored in storage.list(target)}
    # What describes the rest comes last, and goes first: half a checkpoint must not look like one.
    found.sort(key=_is_description)
    for name in found:
        if name in there:
            continue
        for lease in leases:
            lease.check()
        with explained_write_errors(passing):
            storage.download(f"{source}{name}", passing)
        storage.upload(passing, f"{target}{name}")
    passing.unlink(missing_ok=True)
    for name in reversed(found):
        storage.delete(f"{source}{name}")
    return bool(found)


def _is_description(name: str) -> tuple[bool, str]:
    return name.endswith(".json"), name
