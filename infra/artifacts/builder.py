"""Build an artifact once: reuse, wait, or run the stage, then write the manifest last."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import xxhash

from infra.artifacts.lease import Lease, lease_key
from infra.artifacts.manifest import FileEntry, Manifest, StageCost, canonical_json
from infra.artifacts.shards import MARKER_DIRECTORY, SCRATCH_DIRECTORY, ShardMarkers
from infra.artifacts.stage import (
    ConfigT,
    ProgressReporter,
    Stage,
    StageContext,
    StageResult,
    silent_progress,
)
from infra.artifacts.store import MANIFEST_NAME, Artifact, ArtifactStore
from infra.errors import ArtifactCorrupted, PipelineError
from infra.storage.checksum import checksum_file
from infra.storage.local import LocalStorage, explained_write_errors

_WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class BuildOutcome:
    """How an artifact came to be: `reused` when it was found finished; seconds spent by this call."""

    artifact: Artifact
    reused: bool
    seconds: float
    repaired: str | None = None


def plan_fingerprint(stage: Stage[Any], config: Any, inputs: Mapping[str, str]) -> str:
    """Fingerprint of what `stage` would produce; `inputs` maps names to `kind/fingerprint`."""
    identity = {
        "stage": stage.name,
        "version": stage.version,
        "config": config.identity(),
        "inputs": dict(inputs),
    }
    return xxhash.xxh3_128_hexdigest(canonical_json(identity))


def build_stage(
    stage: Stage[ConfigT],
    config: ConfigT,
    inputs: Mapping[str, Artifact],
    store: ArtifactStore,
    *,
    report: ProgressReporter = silent_progress,
    log: logging.Logger | None = None,
    usd_per_hour: float = 0.0,
) -> BuildOutcome:
    """Return the stage's artifact, building it only when it is not finished and intact.

    A corrupted artifact is named in the log and rebuilt from its good shards. While another
    process builds the same artifact this call waits for it. Raises whatever the stage raises;
    its finished shards stay and the next call continues from them.
    """
    log = log or logging.getLogger(f"sam2.{stage.name}")
    references = {name: artifact.reference for name, artifact in inputs.items()}
    fingerprint = plan_fingerprint(stage, config, references)
    started = time.monotonic()
    lease, artifact, repaired = _acquire_or_find(stage, fingerprint, store, log)
    if artifact is not None:
        return BuildOutcome(artifact, True, time.monotonic() - started)
    assert lease is not None
    try:
        artifact = _run(stage, config, inputs, store, fingerprint, lease, report, log, usd_per_hour)
    finally:
        lease.release()
    return BuildOutcome(artifact, False, time.monotonic() - started, repaired)


def _acquire_or_find(
    stage: Stage[Any], fingerprint: str, store: ArtifactStore, log: logging.Logger
) -> tuple[Lease | None, Artifact | None, str | None]:
    """Loop until the artifact is found finished or the right to build it is ours."""
    key = lease_key(stage.kind, fingerprint)
    waiting = False
    repaired: str | None = None
    while True:
        lease = None
        try:
            artifact = store.find(stage.kind, fingerprint)
            if artifact is not None:
                return None, artifact, repaired
            lease = Lease.try_acquire(store.storage, key)
            # Another builder may have finished between the look and the lease.
            if lease is not None:
                artifact = store.find(stage.kind, fingerprint)
        except ArtifactCorrupted as error:
            repaired = error.problem
            log.warning("%s %s", error.problem, "Rebuilding it.")
            lease = lease or Lease.try_acquire(store.storage, key)
            if lease is not None:
                store.withdraw_manifest(stage.kind, fingerprint)
                return lease, None, repaired
            artifact = None
        if lease is not None and artifact is not None:
            lease.release()
            return None, artifact, repaired
        if lease is not None:
            return lease, None, repaired
        if not waiting:
            log.info("%s: another run is building this artifact; waiting for it", stage.name)
            waiting = True
        time.sleep(_WAIT_SECONDS)


def _run(
    stage: Stage[ConfigT],
    config: ConfigT,
    inputs: Mapping[str, Artifact],
    store: ArtifactStore,
    fingerprint: str,
    lease: Lease,
    report: ProgressReporter,
    log: logging.Logger,
    usd_per_hour: float,
) -> Artifact:
    directory = store.working_directory(stage.kind, fingerprint)
    LocalStorage(directory).discard_unfinished()  # of killed attempts on this machine
    shards = ShardMarkers(directory, store.storage, store.prefix(stage.kind, fingerprint))

    def guarded_report(fraction: float, message: str, metrics: Mapping[str, float] | None = None) -> None:
        lease.check()
        report(fraction, message, metrics)

    is_local = store.storage.local_path("") is not None
    remote = None if is_local else store.storage.uri(store.prefix(stage.kind, fingerprint))
    started = time.monotonic()
    try:
        with explained_write_errors(directory):
            result = stage.run(StageContext(config, inputs, directory, shards, guarded_report, log, remote))
        shards.flush()
    except BaseException as error:
        # What is finished is carried to remote storage after a failure, but nobody who stops a run waits for it.
        shards.close(keep=isinstance(error, Exception))
        raise
    shards.close(keep=True)
    lease.check()
    seconds = time.monotonic() - started
    cost = StageCost(seconds=seconds, usd=seconds / 3600 * usd_per_hour)
    manifest = _manifest(stage, config, inputs, fingerprint, directory, result, cost)
    artifact = store.publish(manifest, directory, shards.stored())
    try:
        shards.clear()
        store.tidy(manifest)
    except PipelineError as error:
        log.warning("%s: finished, but what building left behind stays: %s", stage.name, error)
    return artifact


def _manifest(
    stage: Stage[Any],
    config: Any,
    inputs: Mapping[str, Artifact],
    fingerprint: str,
    directory: Path,
    result: StageResult,
    cost: StageCost,
) -> Manifest:
    return Manifest(
        kind=stage.kind,
        fingerprint=fingerprint,
        stage=stage.name,
        stage_version=stage.version,
        config=config.identity(),
        inputs={name: artifact.reference for name, artifact in inputs.items()},
        files=tuple(_list_files(directory)),
        statistics=result.statistics,
        metrics=result.metrics,
        tables=result.tables,
        cost=cost,
        code_version=code_version(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _list_files(directory: Path) -> list[FileEntry]:
    private = {MARKER_DIRECTORY, SCRATCH_DIRECTORY}
    entries = []
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        hidden = relative.parts[0] in private or path.name.startswith(".tmp-")
        if path.is_file() and not hidden and relative.as_posix() != MANIFEST_NAME:
            entries.append(
                FileEntry(path=relative.as_posix(), size_bytes=path.stat().st_size, checksum=checksum_file(path))
            )
    return entries


@cache
def code_version() -> str:
    """Git commit of the running code (`+changes` when the tree is modified), or the package version."""
    root = Path(__file__).resolve().parent.parent.parent
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        from importlib.metadata import version

        return version("sam2-pipeline")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
