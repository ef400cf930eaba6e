"""Unfinished work changes hands: whole at every moment, whatever is killed when, on disks and in buckets."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.artifacts import ArtifactStore, Stage, StageConfig, StageContext, StageResult, adopt_unfinished, build_stage
from infra.artifacts.adoption import BuildGoesOn
from infra.artifacts.lease import Lease, lease_key
from infra.storage.local import LocalStorage

KIND, OLD, NEW = "work", "a" * 32, "b" * 32
CHECKPOINTS = {
    "step-00000004/checkpoint.json": b"{4}", "step-00000004/weights": b"four", "step-00000008/checkpoint.json": b"{8}",
    "step-00000008/weights": b"eight",
}  # fmt: skip
FILES = {f".scratch/checkpoints/{name}": content for name, content in CHECKPOINTS.items()}
HERE = FILES | {".scratch/job.json": b"{}", "incidents.jsonl": b"one\n", "profiles/trace.json": b"[]"}
BESIDE = ("incidents.jsonl", "profiles")


class Bucket(LocalStorage):
    """A directory that is nobody's disk."""

    def local_path(self, key: str) -> None:  # type: ignore[override]
        return None


class Killed(BaseException):
    """The process ended here."""


def made_store(root: Path, *, remote: bool, here: bool = True) -> ArtifactStore:
    """A store with a stopped build: its files on this machine and, where storage is remote, its checkpoints there."""
    storage = (Bucket if remote else LocalStorage)(root / "artifacts")
    store = ArtifactStore(storage, root / "cache")
    for name, content in (HERE if here else {}).items():
        path = store.working_directory(KIND, OLD) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name, content in (FILES if remote else {}).items():
        storage.write(f"{KIND}/{OLD}/{name}", content)
    return store


def files_here(store: ArtifactStore, fingerprint: str) -> dict[str, bytes]:
    return contents(store.working_directory(KIND, fingerprint))


def files_there(store: ArtifactStore, fingerprint: str) -> dict[str, bytes]:
    return contents(Path(store.storage.uri(f"{KIND}/{fingerprint}")))


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def adopt(store: ArtifactStore) -> bool:
    return adopt_unfinished(store, KIND, OLD, NEW, files=BESIDE, patience_seconds=0)


@pytest.mark.parametrize("remote", [False, True])
def test_scratch_and_the_named_files_are_handed_over_once(tmp_path: Path, remote: bool) -> None:
    store = made_store(tmp_path, remote=remote)
    assert adopt(store) and not adopt(store)
    assert files_here(store, NEW) == HERE and not files_here(store, OLD)
    if remote:
        assert files_there(store, NEW) == FILES and not files_there(store, OLD)
    assert not list(store.storage.list(".leases/")), "both leases are released"


def test_a_machine_that_has_nothing_itself_hands_over_what_is_in_the_bucket(tmp_path: Path) -> None:
    store = made_store(tmp_path, remote=True, here=False)
    assert adopt(store) and not adopt(store)
    assert files_there(store, NEW) == FILES and not files_there(store, OLD)


@pytest.mark.parametrize("remote", [False, True])
def test_a_kill_between_any_two_operations_loses_nothing(
    tmp_path: Path, remote: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [0]

    def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            if not left[0]:
                raise Killed
            left[0] -= 1
            return operation(*arguments, **options)

        return run

    def attempt(store: ArtifactStore, operations: int) -> bool:
        """Adopt with so many operations to live; whether that was enough."""
        left[0] = operations
        with monkeypatch.context() as patched:
            for owner, names in (
                (LocalStorage, ("create", "read", "download", "upload", "delete")),
                (Path, ("rename",)),
            ):
                for name in names:
                    patched.setattr(owner, name, counted(getattr(owner, name)))
            patched.setattr(Lease, "release", lambda self: self._stopped.set())  # a killed process releases nothing
            try:
                adopt(store)
            except Killed:
                return False
        return True

    operations = 0
    is_over = False
    while not is_over:
        store = made_store(tmp_path / str(operations), remote=remote)
        is_over = attempt(store, operations)
        for scratch, where in ((files_here, HERE), (files_there, FILES)) if remote else ((files_here, HERE),):
            found = [
                {name for name in scratch(store, fingerprint) if name.startswith(".scratch/checkpoints/")}
                for fingerprint in (OLD, NEW)
            ]
            assert set(FILES) in found, f"whole at one place after {operations} operations of {where}"
        shutil.rmtree(Path(store.storage.uri(".leases")), ignore_errors=True)  # their holder is dead
        adopt(store)
        assert files_here(store, NEW) == HERE and not files_here(store, OLD)
        if remote:
            assert files_there(store, NEW) == FILES and not files_there(store, OLD)
        operations += 1
    assert operations > (12 if remote else 5), "every operation was cut off once"


@pytest.mark.parametrize("fingerprint", [OLD, NEW])
def test_a_living_builder_keeps_its_work(tmp_path: Path, fingerprint: str) -> None:
    store = made_store(tmp_path, remote=False)
    builder = Lease.try_acquire(store.storage, lease_key(KIND, fingerprint))
    assert builder is not None
    try:
        with pytest.raises(BuildGoesOn, match="stop that run, or wait"):
            adopt(store)
    finally:
        builder.release()
    assert files_here(store, OLD) == HERE
    assert adopt(store)


def test_what_the_other_has_already_stays(tmp_path: Path) -> None:
    store = made_store(tmp_path, remote=False)
    (store.working_directory(KIND, NEW) / "incidents.jsonl").write_bytes(b"its own\n")
    (store.working_directory(KIND, NEW) / ".scratch" / "checkpoints").mkdir(parents=True)  # empty: nothing to keep
    assert adopt(store)
    assert files_here(store, NEW) == HERE | {"incidents.jsonl": b"its own\n"}
    assert files_here(store, OLD) == {"incidents.jsonl": HERE["incidents.jsonl"]}


def write_one(context: StageContext[StageConfig]) -> StageResult:
    (context.directory / "result").write_bytes(b"done")
    return StageResult()


@pytest.mark.parametrize("finished_is_source", [True, False])
def test_finished_artifacts_are_not_touched(tmp_path: Path, finished_is_source: bool) -> None:
    store = made_store(tmp_path, remote=False)
    stage = Stage("one", KIND, 1, StageConfig, write_one)
    finished = build_stage(stage, StageConfig(), {}, store).artifact
    before = contents(finished.directory)
    pair = (finished.manifest.fingerprint, OLD) if finished_is_source else (OLD, finished.manifest.fingerprint)
    assert not adopt_unfinished(store, KIND, *pair, files=("result", *BESIDE), patience_seconds=0)
    assert contents(finished.directory) == before and files_here(store, OLD) == HERE
    manifest = finished.directory / "manifest.json"
    manifest.write_text("damaged")  # the next build repairs it, and nothing is handed over before
    assert not adopt_unfinished(store, KIND, *pair, files=("result", *BESIDE), patience_seconds=0)
    assert files_here(store, OLD) == HERE


def test_the_same_artifact_has_nothing_to_hand_over(tmp_path: Path) -> None:
    store = made_store(tmp_path, remote=False)
    assert not adopt_unfinished(store, KIND, OLD, OLD, files=BESIDE)
    assert files_here(store, OLD) == HERE
