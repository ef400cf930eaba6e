"""The spine: same fingerprint builds once, survives corruption and death, and waits for others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from infra.artifacts import (
    ArtifactStore,
    Stage,
    StageConfig,
    StageContext,
    StageResult,
    build_stage,
    plan_fingerprint,
    run_argument,
)
from infra.errors import ArtifactCorrupted


class CountConfig(StageConfig):
    shard_count: int = 3
    text: str = "x"
    workers: int = run_argument(1, "how many at once")
    kill_after: int | None = run_argument(None, "die with SIGKILL after this many shards")


def write_shards(context: StageContext[CountConfig]) -> StageResult:
    built = 0
    for index in range(context.config.shard_count):
        name = f"shard-{index}"
        if context.shards.is_done(name):
            continue
        path = context.directory / f"{name}.txt"
        path.write_text(context.config.text * (index + 1))
        context.shards.finish(name, [path], {"index": index})
        built += 1
        context.report((index + 1) / context.config.shard_count, name, None)
        if built == context.config.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
    # Not part of the artifact's identity: how many shards this attempt had to build.
    return StageResult(statistics={"built": built}, metrics={"count": float(context.config.shard_count)})


STAGE = Stage("counting", "counted", 1, CountConfig, write_shards)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path / "artifacts"), tmp_path / "cache")


def build_in_child(root: str, config: CountConfig) -> None:
    build_stage(STAGE, config, {}, ArtifactStore.open(root, Path(root) / "cache"))


def run_child(root: Path, config: CountConfig) -> int | None:
    child = multiprocessing.get_context("fork").Process(target=build_in_child, args=(str(root), config))
    child.start()
    child.join(30)
    return child.exitcode


def test_second_build_reuses(store: ArtifactStore) -> None:
    first = build_stage(STAGE, CountConfig(), {}, store)
    second = build_stage(STAGE, CountConfig(workers=8), {}, store)
    assert not first.reused
    assert second.reused
    assert second.artifact.manifest == first.artifact.manifest
    assert [path.name for path in second.artifact.paths(suffix=".txt")] == [
        "shard-0.txt",
        "shard-1.txt",
        "shard-2.txt",
    ]


def test_fingerprint_follows_what_changes_the_result_only() -> None:
    base = plan_fingerprint(STAGE, CountConfig(), {"a": "k/1"})
    assert plan_fingerprint(STAGE, CountConfig(workers=4), {"a": "k/1"}) == base
    assert plan_fingerprint(STAGE, CountConfig(text="y"), {"a": "k/1"}) != base
    assert plan_fingerprint(STAGE, CountConfig(), {"a": "k/2"}) != base
    assert (
        plan_fingerprint(Stage("counting", "counted", 2, CountConfig, write_shards), CountConfig(), {"a": "k/1"})
        != base
    )


def test_killed_build_continues_from_finished_shards(tmp_path: Path) -> None:
    root = tmp_path / "killed"
    assert run_child(root, CountConfig(kill_after=2)) == -signal.SIGKILL
    store = ArtifactStore.open(str(root), tmp_path / "cache")
    outcome = build_stage(STAGE, CountConfig(), {}, store)
    assert outcome.artifact.manifest.statistics == {"built": 1}
    whole = build_stage(STAGE, CountConfig(), {}, ArtifactStore.open(str(tmp_path / "whole"), tmp_path / "cache2"))
    assert outcome.artifact.manifest.content_checksum == whole.artifact.manifest.content_checksum


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_corruption_is_named_and_only_the_bad_shard_is_redone(store: ArtifactStore, damage: str) -> None:
    outcome = build_stage(STAGE, CountConfig(), {}, store)
    victim = outcome.artifact.directory / "shard-1.txt"
    if damage == "flip":
        victim.write_text("zz")
    elif damage == "truncate":
        victim.write_text("")
    else:
        victim.unlink()
    with pytest.raises(ArtifactCorrupted, match=r"shard-1\.txt"):
        store.find("counted", outcome.artifact.manifest.fingerprint)
    repaired = build_stage(STAGE, CountConfig(), {}, store)
    assert not repaired.reused
    assert "shard-1.txt" in (repaired.repaired or "")
    assert repaired.artifact.manifest.content_checksum == outcome.artifact.manifest.content_checksum


def test_damaged_shard_before_the_manifest_is_redone(tmp_path: Path) -> None:
    root = tmp_path / "store"
    run_child(root, CountConfig(kill_after=2))
    next(root.glob("counted/*/shard-0.txt")).write_text("damaged")
    outcome = build_stage(STAGE, CountConfig(), {}, ArtifactStore.open(str(root), tmp_path / "cache"))
    assert outcome.artifact.manifest.statistics == {"built": 2}


def test_unreadable_manifest_is_rebuilt(store: ArtifactStore) -> None:
    outcome = build_stage(STAGE, CountConfig(), {}, store)
    (outcome.artifact.directory / "manifest.json").write_text("{")
    assert not build_stage(STAGE, CountConfig(), {}, store).reused


def test_two_runs_build_once(tmp_path: Path) -> None:
    runs: list[int] = []

    def slow(context: StageContext[CountConfig]) -> StageResult:
        runs.append(1)
        time.sleep(1.5)
        (context.directory / "done.txt").write_text("done")
        return StageResult()

    stage = Stage("slow", "slow", 1, CountConfig, slow)
    outcomes = []

    def build() -> None:
        store = ArtifactStore.open(str(tmp_path / "store"), tmp_path / "cache")
        outcomes.append(build_stage(stage, CountConfig(), {}, store))

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 1
    assert sorted(outcome.reused for outcome in outcomes) == [False, True]


def test_failure_releases_the_lease(store: ArtifactStore) -> None:
    attempts: list[int] = []

    def fails_once(context: StageContext[CountConfig]) -> StageResult:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("first time")
        return StageResult()

    stage = Stage("fragile", "fragile", 1, CountConfig, fails_once)
    with pytest.raises(ValueError, match="first time"):
        build_stage(stage, CountConfig(), {}, store)
    assert not build_stage(stage, CountConfig(), {}, store).reused


def test_unlisted_file_is_refused(store: ArtifactStore) -> None:
    artifact = build_stage(STAGE, CountConfig(), {}, store).artifact
    with pytest.raises(ArtifactCorrupted, match=r"no file 'secret\.txt'"):
        artifact.path("secret.txt")


def test_artifacts_in_a_bucket_are_shared_between_machines(s3_bucket: str, tmp_path: Path) -> None:
    uri = f"s3://{s3_bucket}/artifacts"
    first = build_stage(STAGE, CountConfig(), {}, ArtifactStore.open(uri, tmp_path / "machine-1"))
    elsewhere = ArtifactStore.open(uri, tmp_path / "machine-2")
    second = build_stage(STAGE, CountConfig(), {}, elsewhere)
    assert second.reused
    assert second.artifact.path("shard-2.txt").read_text() == "xxx"
    assert second.artifact.uri == f"{uri}/counted/{first.artifact.manifest.fingerprint}"

    second.artifact.path("shard-1.txt").write_text("zz")
    assert elsewhere.find("counted", first.artifact.manifest.fingerprint) is not None
    assert second.artifact.path("shard-1.txt").read_text() == "xx", "a bad copy is fetched anew"

    key = f"counted/{first.artifact.manifest.fingerprint}/shard-1.txt"
    elsewhere.storage.write(key, b"zz")
    second.artifact.path("shard-1.txt").unlink()
    with pytest.raises(ArtifactCorrupted, match=r"shard-1\.txt' .*does not match its checksum"):
        elsewhere.find("counted", first.artifact.manifest.fingerprint)
    repaired = build_stage(STAGE, CountConfig(), {}, elsewhere)
    assert not repaired.reused
    assert elsewhere.storage.read(key) == b"xx"


def test_finished_shards_in_a_bucket_survive_the_machine(s3_bucket: str, tmp_path: Path) -> None:
    uri = f"s3://{s3_bucket}/artifacts"

    def dies_after_two(context: StageContext[CountConfig]) -> StageResult:
        write_shards(StageContext(CountConfig(shard_count=2), {}, context.directory, context.shards))
        raise RuntimeError("spot instance taken away")

    dying = Stage("counting", "counted", 1, CountConfig, dies_after_two)
    with pytest.raises(RuntimeError, match="taken away"):
        build_stage(dying, CountConfig(), {}, ArtifactStore.open(uri, tmp_path / "machine-1"))
    outcome = build_stage(STAGE, CountConfig(), {}, ArtifactStore.open(uri, tmp_path / "machine-2"))
    assert outcome.artifact.manifest.statistics == {"built": 1}
