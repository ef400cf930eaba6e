"""Checkpoints in a bucket: another machine goes on with an empty disk; an outage does not end training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from infra.errors import SourceError
from infra.storage import LocalStorage, S3Storage, open_storage
from infra.storage import s3_bucket as requests
from tasks.training.checkpoints import Checkpoint, CheckpointStore, whole
from tests.tasks.training.checkpoints.conftest import Stores, fragments, patched, steps_in, whole_state
from tests.tasks.training.checkpoints.rank_threads import ThreadRank, run_ranks

UPLOAD = "infra.storage.s3.S3Storage.upload"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "FIRST_DELAY_SECONDS", 0.002)
    monkeypatch.setattr(requests, "LONGEST_DELAY_SECONDS", 0.01)


@pytest.fixture
def bucket(moto_bucket: str) -> str:
    return f"s3://{moto_bucket}/runs/one/checkpoints"


@pytest.fixture
def remote(tmp_path: Path) -> str:
    """A mounted directory, which is told apart from a bucket by nothing but its address."""
    return str(tmp_path / "mounted")


def assert_is(checkpoint: Checkpoint | None, step: int) -> None:
    assert checkpoint is not None
    assert checkpoint.step == step
    for name, value in whole_state(step).items():
        assert torch.equal(whole(checkpoint, name), value)


def remote_steps(remote: str) -> list[int]:
    keys = [stored.key for stored in open_storage(remote).list() if stored.key.endswith("/checkpoint.json")]
    return [int(key.partition("/")[0].removeprefix("step-")) for key in keys]


def refused(self: S3Storage, path: Path, key: str) -> None:
    raise SourceError(f"'{key}' failed: SlowDown.", "run again.")


def test_another_machine_goes_on_from_the_bucket(stores: Stores, bucket: str, tmp_path: Path) -> None:
    store = stores.open(remote=bucket)
    for step in (10, 20, 30):
        stores.save(store, step)
    assert remote_steps(bucket) == steps_in(stores.directory) == [20, 30]
    elsewhere = stores.open(remote=bucket, directory=tmp_path / "another")
    checkpoint = elsewhere.load_latest(pytest.fail)
    assert_is(checkpoint, 30)
    assert checkpoint is not None
    assert len(checkpoint.series("history")) == 30
    stores.save(elsewhere, 40)
    assert remote_steps(bucket) == [30, 40]
    left = {stored.key.rpartition("/")[2].partition("-")[0] for stored in open_storage(bucket).list()}
    assert left == {"checkpoint.json", "history", "optimizer", "weights"}, "no notes stay"


def test_ranks_share_the_fetching(stores: Stores, remote: str, tmp_path: Path) -> None:
    def write(rank: ThreadRank) -> None:
        store = stores.open(rank, remote)
        store.save(10, fragments(10, rank.rank, rank.ranks), {}, wait=True)

    def read(rank: ThreadRank) -> Checkpoint | None:
        return stores.open(rank, remote, tmp_path / "another").load_latest(pytest.fail)

    run_ranks(2, write)
    for checkpoint in run_ranks(3, read):
        assert_is(checkpoint, 10)


def test_a_damaged_file_here_is_fetched_again(stores: Stores, remote: str) -> None:
    stores.save(stores.open(remote=remote), 10)
    for path in (stores.directory / "step-00000010").iterdir():
        path.write_bytes(b"torn")
        stores.warnings.clear()
        assert_is(stores.open(remote=remote).load_latest(), 10)
    assert_is(stores.open().load_latest(pytest.fail), 10)


def test_a_damaged_remote_file_gives_way_to_the_one_before(stores: Stores, remote: str, tmp_path: Path) -> None:
    store = stores.open(remote=remote)
    stores.save(store, 10)
    stores.save(store, 20)
    storage = open_storage(remote)
    weights = next(stored.key for stored in storage.list("step-00000020/weights"))
    storage.write(weights, b"short")
    assert_is(stores.open(remote=remote, directory=tmp_path / "another").load_latest(), 10)
    assert len(stores.warnings) == 1
    assert "step-00000020" in stores.warnings[0]


def test_the_newer_of_the_two_places_is_taken(stores: Stores, remote: str, tmp_path: Path) -> None:
    first = stores.open(remote=remote)
    stores.save(first, 10)
    elsewhere = stores.open(remote=remote, directory=tmp_path / "another")
    elsewhere.load_latest()
    stores.save(elsewhere, 20)
    assert_is(stores.open(remote=remote).load_latest(pytest.fail), 20)


def test_an_upload_that_fails_does_not_end_training(
    stores: Stores, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores.open(remote=bucket)
    stores.save(store, 10)
    with patched(monkeypatch, UPLOAD, refused):
        assert stores.save(store, 20, wait=False)
        with pytest.raises(SourceError, match="SlowDown"):
            store.wait()
        assert steps_in(stores.directory) == [10, 20], "it is on this disk"
        assert remote_steps(bucket) == [10]
    assert len(stores.warnings) == 1
    assert "SlowDown" in stores.warnings[0]
    assert stores.save(store, 30, wait=False)
    store.wait()
    assert remote_steps(bucket) == [10, 30]
    assert not list(open_storage(bucket).list("step-00000020")), "what the failed attempt left is removed"


def test_a_bucket_that_cannot_be_reached_stops_a_start_without_checkpoints(
    stores: Stores, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beginning anew would lose what the bucket holds; a checkpoint on disk is gone on from."""
    stores.save(stores.open(remote=bucket), 10)

    def unreachable(self: S3Storage, *arguments: Any) -> Any:
        raise SourceError("nothing answers.", "check the network.")

    def load(store: CheckpointStore) -> Checkpoint | None:
        return store.load_latest()

    with patched(monkeypatch, "infra.storage.s3.S3Storage.list", unreachable):
        assert_is(load(stores.open(remote=bucket)), 10)
        assert any("cannot be reached" in warning for warning in stores.warnings)
        with pytest.raises(SourceError, match="nothing answers"):
            load(stores.open(remote=bucket, directory=tmp_path / "another"))
        assert run_ranks(2, lambda rank: fails_alike(stores, rank, bucket, tmp_path / "third")) == [True, True]


def fails_alike(stores: Stores, rank: ThreadRank, remote: str, directory: Path) -> bool:
    with pytest.raises(SourceError):
        stores.open(rank, remote, directory).load_latest()
    return True


def test_going_back_clears_the_remote_place_too(stores: Stores, remote: str, tmp_path: Path) -> None:
    store = stores.open(remote=remote, newest=3)
    for step in (10, 20, 30):
        stores.save(store, step)
    assert_is(store.load_at_or_before(15, pytest.fail), 10)
    assert remote_steps(remote) == steps_in(stores.directory) == [10]
    assert_is(stores.open(remote=remote, directory=tmp_path / "another").load_latest(pytest.fail), 10)


def test_a_checkpoint_whose_upload_failed_on_one_rank_stays_here(
    stores: Stores, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = LocalStorage.upload

    def refused_of_the_second(self: LocalStorage, path: Path, key: str) -> None:
        if "-00001-of-" in key and key.startswith("step-00000010"):
            raise SourceError(f"'{key}' failed.", "run again.")
        upload(self, path, key)

    def work(rank: ThreadRank) -> None:
        store = stores.open(rank, remote)
        store.save(10, fragments(10, rank.rank, rank.ranks), {})
        step = 20
        while not store.save(step, fragments(step, rank.rank, rank.ranks), {}):
            step += 1
        store.wait()
        assert_is(store.load_at_or_before(10), 10)

    with patched(monkeypatch, "infra.storage.local.LocalStorage.upload", refused_of_the_second):
        run_ranks(2, work)
    assert steps_in(Path(remote)) == [], "it never was complete there"
    assert steps_in(stores.directory) == [10]
    assert len(stores.warnings) >= 1
