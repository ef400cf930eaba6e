"""Several ranks: each writes its part, any number reads, all agree."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigurationError, PipelineError, StorageFull
from tasks.training.checkpoints import Checkpoint, CheckpointFailed, CheckpointStore, Fragment, deal, whole
from tasks.training.checkpoints import writing as writing_module
from tests.tasks.training.checkpoints.conftest import Stores, fragments, patched, steps_in, whole_state
from tests.tasks.training.checkpoints.rank_threads import ThreadRank, run_ranks

WRITE = "tasks.training.checkpoints.writing.write_safetensors"


def save(store: CheckpointStore, step: int, rank: ThreadRank, wait: bool = True) -> bool:
    progress = {"optimizer_step": step, "from_rank": rank.rank}
    return store.save(step, fragments(step, rank.rank, rank.ranks), progress, wait=wait)


@given(
    shapes=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=3), min_size=1, max_size=4),
    writers=st.integers(1, 5),
    readers=st.integers(1, 5),
)
@settings(max_examples=25)
def test_what_some_ranks_wrote_others_read_by_slices(shapes: list[list[int]], writers: int, readers: int) -> None:
    generator = torch.Generator().manual_seed(1)
    state = {f"weights.{number}": torch.randn(shape, generator=generator) for number, shape in enumerate(shapes)}
    pieces = [Fragment(name, tuple(value.shape), 0, value) for name, value in state.items()]
    with TemporaryDirectory() as directory:
        stores = Stores(Path(directory))

        def write(rank: ThreadRank) -> None:
            stores.open(rank).save(7, list(deal(pieces, rank.rank, rank.ranks)), {}, wait=True)

        def read(rank: ThreadRank) -> dict[tuple[str, int], torch.Tensor]:
            checkpoint = stores.open(rank).load_latest(pytest.fail)
            assert checkpoint is not None
            return {
                (piece.tensor, piece.start): checkpoint.read(piece.tensor, piece.start, piece.stop)
                for piece in deal(pieces, rank.rank, rank.ranks)
            }

        run_ranks(writers, write)
        found: dict[str, list[tuple[int, torch.Tensor]]] = {name: [] for name in state}
        for part in run_ranks(readers, read):
            for (name, start), values in part.items():
                found[name].append((start, values))
    for name, value in state.items():
        flat = torch.cat([values for _, values in sorted(found[name], key=lambda piece: piece[0])])
        assert torch.equal(flat.reshape(value.shape), value)


def test_each_rank_has_its_files_and_the_first_ones_progress_counts(stores: Stores) -> None:
    run_ranks(3, lambda rank: save(stores.open(rank), 10, rank))
    names = [path.name.rsplit("-", 2)[0] for path in sorted((stores.directory / "step-00000010").iterdir())]
    assert names == [
        "checkpoint.json",
        *[f"optimizer-0000{rank}-of-00003" for rank in range(3)],
        *[f"weights-0000{rank}-of-00003" for rank in range(3)],
    ]
    checkpoint = stores.open().load_latest(pytest.fail)
    assert checkpoint is not None
    assert checkpoint.progress == {"optimizer_step": 10, "from_rank": 0}
    for name, value in whole_state(10).items():
        assert torch.equal(whole(checkpoint, name), value)


def test_the_ranks_agree_when_one_finds_damage(stores: Stores) -> None:
    for step in (10, 20):
        run_ranks(2, lambda rank, step=step: save(stores.open(rank), step, rank))  # type: ignore[misc]
    for path in (stores.directory / "step-00000020").glob("optimizer-00001-*"):
        path.write_bytes(b"torn")

    def load(rank: ThreadRank) -> int:
        checkpoint = stores.open(rank).load_latest()
        assert checkpoint is not None
        return checkpoint.step

    assert run_ranks(2, load) == [10, 10]
    assert len(stores.warnings) == 1
    assert "optimizer-00001" in stores.warnings[0]


def test_a_part_that_is_missing_is_no_checkpoint_and_does_not_hang(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank's disk is full: the first rank stops waiting for its part, and all hear of it."""
    write = writing_module.write_safetensors

    def full_on_the_second(path: Path, *arguments: Any) -> Any:
        if "00001-of" in path.name and "step-00000020" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *arguments)

    def work(rank: ThreadRank) -> list[Any]:
        store = stores.open(rank)
        save(store, 10, rank)
        started = [save(store, 20, rank, wait=False)]
        try:
            store.wait()
        except PipelineError as error:
            started.append(error)
            assert not list(stores.directory.glob(f"step-00000020/*-0000{rank.rank}-of-*")), "its space is given back"
        started.append(save(store, 30, rank))
        return started

    with patched(monkeypatch, WRITE, full_on_the_second):
        results = run_ranks(2, work)
    for started, error, again in results:
        assert started
        assert again
        assert isinstance(error, StorageFull)
    assert "1 other rank(s)" in str(results[0][1])
    assert steps_in(stores.directory) == [10, 30]


def test_the_next_save_replaces_one_that_a_rank_could_not_write(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = writing_module.write_safetensors

    def broken_on_the_second(path: Path, *arguments: Any) -> Any:
        if "00001-of" in path.name and "step-00000020" in str(path):
            raise OSError(errno.EIO, "Input/output error")
        return write(path, *arguments)

    def work(rank: ThreadRank) -> bool:
        store = stores.open(rank)
        save(store, 20, rank, wait=False)
        step = 21
        while not save(store, step, rank, wait=False):  # put off until the failure is known
            step += 1
        store.wait()
        return True

    with patched(monkeypatch, WRITE, broken_on_the_second):
        assert run_ranks(2, work) == [True, True]
    assert len(steps_in(stores.directory)) == 1
    assert steps_in(stores.directory)[0] > 20
    assert not list(stores.directory.glob("step-00000020/weights-*")), "the other rank gave its space back"
    assert any("update 20 failed" in warning for warning in stores.warnings)


def test_another_kind_of_failure_is_raised_on_all_ranks(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, *arguments: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    def work(rank: ThreadRank) -> type:
        with pytest.raises(CheckpointFailed) as caught:
            save(stores.open(rank), 10, rank)
        return caught.type

    with patched(monkeypatch, WRITE, broken):
        assert run_ranks(2, work) == [CheckpointFailed, CheckpointFailed]


def test_ranks_that_see_different_directories_need_a_remote_place(tmp_path: Path) -> None:
    def work(rank: ThreadRank) -> None:
        Stores(tmp_path / str(rank.rank)).open(rank)

    with pytest.raises(ConfigurationError, match=r"do not see the checkpoint directory.*s3://"):
        run_ranks(2, work)


def test_machines_without_a_shared_disk_meet_in_the_remote_place(tmp_path: Path) -> None:
    """Two machines of one rank each: parts pass through, and each machine fetches what it lacks."""
    remote = str(tmp_path / "remote")

    def write(rank: ThreadRank) -> None:
        stores = Stores(tmp_path / str(rank.rank))
        store = stores.open(rank, remote)
        for step in (10, 20, 30):
            save(store, step, rank)
        assert stores.warnings == []

    def read(rank: ThreadRank) -> Checkpoint | None:
        return Stores(tmp_path / f"new-{rank.rank}").open(rank, remote).load_latest(pytest.fail)

    run_ranks(2, write)
    assert steps_in(tmp_path / "remote") == [20, 30]
    assert [path for path in tmp_path.glob("[01]/**/*") if path.is_file()] == []
    for checkpoint in run_ranks(3, read):
        assert checkpoint is not None
        assert checkpoint.step == 30
        for name, value in whole_state(30).items():
            assert torch.equal(whole(checkpoint, name), value)
    assert steps_in(tmp_path / "new-0") == [30]


def test_a_killed_writers_leftovers_are_cleared(stores: Stores) -> None:
    run_ranks(2, lambda rank: save(stores.open(rank), 10, rank))
    torn = stores.directory / "step-00000020"
    torn.mkdir()
    (torn / "weights-00000-of-00002-dead-2.safetensors").write_bytes(os.urandom(50))
    (stores.directory / "step-00000010" / "weights-00000-of-00002-dead-9.safetensors").write_bytes(b"half")

    def work(rank: ThreadRank) -> None:
        store = stores.open(rank)
        assert store.load_latest(pytest.fail) is not None
        assert not torn.exists()
        save(store, 30, rank)

    run_ranks(2, work)
    assert not list(stores.directory.glob("**/*dead*"))
    assert not list(stores.directory.glob("**/part-*")), "nor the ranks' notes"
    assert steps_in(stores.directory) == [10, 30]
