"""Checkpoints: whole or not there, verified, and the one before is taken when the newest is damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from infra.errors import ArtifactCorrupted
from tasks.training.checkpointing import CheckpointStore, TrainingState, load_moments


def state(step: int) -> TrainingState:
    values = torch.arange(6, dtype=torch.float32).reshape(2, 3) + step
    moments = {"exp_avg.w": values * 0.1, "exp_avg_sq.w": values * 0.01}
    return TrainingState(step, step + 100, {"w": values}, moments, [{"step": step}], [{"seconds": 1.0}])


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in (10, 20, 30):
        store.save(state(step))
    store.wait()
    return store


def load(store: CheckpointStore) -> tuple[int | None, list[str]]:
    warnings: list[str] = []
    found = CheckpointStore(store.directory).load_latest(warnings.append)
    return (found.step if found else None), warnings


def test_everything_comes_back_exactly(checkpoints: CheckpointStore) -> None:
    found = checkpoints.load_latest(pytest.fail)
    assert found is not None
    assert (found.step, found.optimizer_step) == (30, 130)
    assert torch.equal(found.weights["w"], state(30).weights["w"])
    assert torch.equal(found.moments["exp_avg_sq.w"], state(30).moments["exp_avg_sq.w"])
    assert (found.history, found.timing) == ([{"step": 30}], [{"seconds": 1.0}])


def test_only_the_newest_two_are_kept(checkpoints: CheckpointStore) -> None:
    assert sorted(path.name for path in checkpoints.directory.iterdir()) == ["step-00000020", "step-00000030"]


def flip_a_byte(path: Path) -> None:
    data = bytearray((path / "weights.safetensors").read_bytes())
    data[-3] ^= 1
    (path / "weights.safetensors").write_bytes(data)


def cut_short(path: Path) -> None:
    data = (path / "optimizer.safetensors").read_bytes()
    (path / "optimizer.safetensors").write_bytes(data[: len(data) // 2])


def lose_the_description(path: Path) -> None:
    (path / "checkpoint.json").unlink()


def garble_the_description(path: Path) -> None:
    (path / "checkpoint.json").write_text('{"step": 3')


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, lose_the_description, garble_the_description])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    checkpoints: CheckpointStore, damage: Callable[[Path], None]
) -> None:
    damage(checkpoints.directory / "step-00000030")
    step, warnings = load(checkpoints)
    assert step == 20
    assert len(warnings) == 1
    assert "step-00000030" in warnings[0]


def test_nothing_intact_means_a_fresh_start(checkpoints: CheckpointStore) -> None:
    for step in (20, 30):
        flip_a_byte(checkpoints.directory / f"step-000000{step}")
    step, warnings = load(checkpoints)
    assert step is None
    assert len(warnings) == 2


def test_a_write_that_was_killed_leaves_no_checkpoint_and_is_cleared_away(checkpoints: CheckpointStore) -> None:
    torn = checkpoints.directory / ".tmp-step-00000040"
    torn.mkdir()
    (torn / "weights.safetensors").write_bytes(b"half")
    assert load(checkpoints) == (30, [])
    checkpoints.save(state(50))
    checkpoints.wait()
    assert not torn.exists()


def test_a_failed_write_surfaces_at_the_next_save(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = CheckpointStore(tmp_path / "file")
    store.save(state(1))
    with pytest.raises(OSError, match="file"):
        store.save(state(2))


def test_unreadable_moments_are_named(tmp_path: Path) -> None:
    (tmp_path / "optimizer.safetensors").write_bytes(b"garbage")
    with pytest.raises(ArtifactCorrupted, match=r"optimizer\.safetensors"):
        load_moments(tmp_path / "optimizer.safetensors")
