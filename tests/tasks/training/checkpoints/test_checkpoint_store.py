"""One rank's checkpoints: whole or not there, verified, beside training, pruned by policy."""

from __future__ import annotations

import errno
import json
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.errors import StorageFull
from tasks.training.checkpoints import Checkpoint, CheckpointFailed, RetentionPolicy, whole
from tasks.training.checkpoints.description import Description
from tests.tasks.training.checkpoints.conftest import Stores, fragments, patched, steps_in, whole_state

WRITE = "tasks.training.checkpoints.writing.write_safetensors"


def assert_is(checkpoint: Checkpoint | None, step: int) -> None:
    assert checkpoint is not None
    assert checkpoint.step == step
    expected = whole_state(step)
    assert checkpoint.tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(whole(checkpoint, name), value)


def saved(stores: Stores, *steps: int, **policy: Any) -> None:
    store = stores.open(**policy)
    for step in steps:
        stores.save(store, step)


def test_everything_comes_back_exactly(stores: Stores) -> None:
    saved(stores, 10, 20, 30)
    checkpoint = stores.open().load_latest(pytest.fail)
    assert_is(checkpoint, 30)
    assert checkpoint is not None
    assert checkpoint.progress == {"optimizer_step": 130}
    assert checkpoint.series("history") == [{"step": number} for number in range(30)]
    assert checkpoint.series("unknown") == []


def test_nothing_but_safetensors_and_json_is_written(stores: Stores) -> None:
    saved(stores, 10)
    names = sorted(path.name for path in (stores.directory / "step-00000010").iterdir())
    kinds = [(name.partition("-")[0], Path(name).suffix) for name in names]
    assert kinds == [
        ("checkpoint.json", ".json"),
        ("history", ".jsonl"),
        ("optimizer", ".safetensors"),
        ("weights", ".safetensors"),
    ]


def test_a_checkpoint_damaged_at_any_byte_gives_way_to_the_one_before(stores: Stores) -> None:
    """Every file, a flipped byte and a cut at places over its whole length."""
    saved(stores, 20, 30)
    damaged = 0
    for path in sorted((stores.directory / "step-00000030").iterdir()):
        content = path.read_bytes()
        places = {0, len(content) - 1, *range(0, len(content), max(1, len(content) // 12))}
        for place in sorted(places):
            flipped = content[:place] + bytes([content[place] ^ 0x11]) + content[place + 1 :]
            for broken in (flipped, content[:place]):
                path.write_bytes(broken)
                stores.warnings.clear()
                assert_is(stores.open().load_latest(), 20)
                assert len(stores.warnings) == 1
                assert "step-00000030" in stores.warnings[0]
                damaged += 1
        path.write_bytes(content)
    assert damaged > 100
    assert_is(stores.open().load_latest(pytest.fail), 30)


@pytest.mark.parametrize("kind", ["weights", "optimizer", "history"])
def test_a_missing_file_gives_way_to_the_one_before(stores: Stores, kind: str) -> None:
    saved(stores, 20, 30)
    next((stores.directory / "step-00000030").glob(f"{kind}-*")).unlink()
    assert_is(stores.open().load_latest(), 20)
    assert len(stores.warnings) == 1


def test_without_a_description_there_is_no_checkpoint_and_it_is_cleared_away(stores: Stores) -> None:
    saved(stores, 20, 30)
    (stores.directory / "step-00000030" / "checkpoint.json").unlink()
    assert_is(stores.open().load_latest(pytest.fail), 20)
    assert not (stores.directory / "step-00000030").exists()


def test_nothing_intact_means_none(stores: Stores) -> None:
    saved(stores, 20, 30)
    for path in stores.directory.glob("step-*/weights-*"):
        path.write_bytes(b"")
    assert stores.open().load_latest() is None
    assert len(stores.warnings) == 2


def test_a_damaged_checkpoint_does_not_count_as_one_that_is_kept(stores: Stores) -> None:
    saved(stores, 20, 30)
    next((stores.directory / "step-00000030").glob("weights-*")).write_bytes(b"")
    store = stores.open(newest=2)
    assert_is(store.load_latest(), 20)
    stores.save(store, 25)
    assert steps_in(stores.directory) == [20, 25]


def test_progress_that_is_no_json_is_refused_at_once(stores: Stores) -> None:
    with pytest.raises(TypeError):
        stores.save(stores.open(), 1, wrong=object())


# Keeping and pruning


def test_the_newest_the_best_and_every_so_many_are_kept(stores: Stores) -> None:
    store = stores.open(newest=2, best=True, every_steps=40)
    losses = {10: 3.0, 20: 2.0, 30: 2.5, 40: float("nan"), 50: 2.4, 60: None, 70: 2.2, 80: 2.1, 90: 2.3}
    for step, loss in losses.items():
        stores.save(store, step, validation_loss=loss)
    assert steps_in(stores.directory) == [20, 40, 80, 90]
    assert len(list(stores.directory.iterdir())) == 4, "nothing else stays"


def test_the_policy_by_itself() -> None:
    def description(step: int, sequence: int, loss: float | None) -> Description:
        return Description(
            step=step, sequence=sequence, ranks=1, files={}, tensors={}, series={}, progress={"validation_loss": loss}
        )

    history = [description(50, 1, 2.0), description(60, 2, 1.0), description(40, 3, None)]
    assert RetentionPolicy(newest=1, best=False).kept(history) == {40}, "by age, not by step"
    assert RetentionPolicy(newest=1).kept(history) == {40, 60}
    assert RetentionPolicy(newest=0, best=False, every_steps=25).kept(history) == {40, 50}
    straight = [description(step, step, None) for step in (10, 20, 30, 40)]
    assert RetentionPolicy(newest=1, best=False, behind_steps=15).kept(straight) == {40, 20}, "one to go back to"


def test_the_last_good_one_is_not_pruned_before_a_newer_one_is_complete(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores.open(newest=1)
    stores.save(store, 10)
    seen: list[list[int]] = []

    def fails(*arguments: Any) -> Any:
        seen.append(steps_in(stores.directory))
        raise OSError(errno.EIO, "Input/output error")

    with patched(monkeypatch, WRITE, fails), pytest.raises(CheckpointFailed, match="Input/output error"):
        stores.save(store, 20)
    assert seen == [[10]]
    assert_is(stores.open(newest=1).load_latest(pytest.fail), 10)
    stores.save(store, 30)
    assert steps_in(stores.directory) == [30]


def test_a_file_that_reads_back_otherwise_is_no_checkpoint(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.training.checkpoints.safetensors_stream import write_safetensors

    def loses_a_byte(path: Path, *arguments: Any) -> tuple[str, int]:
        written = write_safetensors(path, *arguments)
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
        return written

    store = stores.open()
    stores.save(store, 10)
    with patched(monkeypatch, WRITE, loses_a_byte), pytest.raises(CheckpointFailed, match="reads back otherwise"):
        stores.save(store, 20)
    assert_is(stores.open().load_latest(pytest.fail), 10)


# Beside training


class Gate:
    """Writes files only while it is open."""

    def __init__(self, write: Callable[..., Any]) -> None:
        self._write = write
        self._open = threading.Event()
        self.reached = threading.Event()

    def __call__(self, *arguments: Any) -> Any:
        self.reached.set()
        assert self._open.wait(30)
        return self._write(*arguments)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    from tasks.training.checkpoints.safetensors_stream import write_safetensors

    gate = Gate(write_safetensors)
    monkeypatch.setattr(WRITE, gate)
    return gate


def test_training_goes_on_while_a_checkpoint_is_written(stores: Stores, gate: Gate) -> None:
    """The values at the time of `save` are kept, whatever the updates after it do."""
    store = stores.open()
    pieces = fragments(10)
    assert store.save(10, pieces, {"optimizer_step": 110}, {"history": []})
    assert gate.reached.wait(30)
    for piece in pieces:
        piece.values.fill_(float("nan"))  # the next update
    gate.open()
    store.wait()
    assert_is(stores.open().load_latest(pytest.fail), 10)


def test_a_save_while_the_one_before_is_written_is_put_off_and_said_once(stores: Stores, gate: Gate) -> None:
    store = stores.open()
    assert stores.save(store, 10, wait=False)
    assert gate.reached.wait(30)
    assert not stores.save(store, 11, wait=False)
    assert not stores.save(store, 12, wait=False)
    assert stores.warnings == ["the checkpoint of update 11 is put off: the one before is still being written"]
    gate.open()
    store.wait()
    assert stores.save(store, 13, wait=False)
    store.wait()
    assert steps_in(stores.directory) == [10, 13]


def test_with_wait_it_is_written_after_the_one_before(stores: Stores, gate: Gate) -> None:
    store = stores.open()
    assert stores.save(store, 10, wait=False)
    assert gate.reached.wait(30)
    threading.Timer(0.05, gate.open).start()
    assert stores.save(store, 11, wait=True)
    assert steps_in(stores.directory) == [10, 11]
    assert stores.warnings == []


def test_a_complete_checkpoint_of_the_same_step_is_not_written_again(stores: Stores) -> None:
    store = stores.open()
    stores.save(store, 10)
    before = (stores.directory / "step-00000010" / "checkpoint.json").read_bytes()
    assert stores.save(store, 10)
    assert stores.save(store, 10, wait=False)
    assert (stores.directory / "step-00000010" / "checkpoint.json").read_bytes() == before


def test_a_loaded_checkpoint_is_not_written_again(stores: Stores) -> None:
    saved(stores, 10)
    store = stores.open()
    store.load_latest()
    assert store.saved_step == 10


# Failures


def full_disk(*arguments: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_does_not_end_training(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores.open()
    stores.save(store, 10)
    with patched(monkeypatch, WRITE, full_disk):
        assert stores.save(store, 20, wait=False)
        with pytest.raises(StorageFull, match=r"No space left.*Fix: free space"):
            store.wait()
    assert len(stores.warnings) == 1
    assert "the checkpoint of update 20 failed" in stores.warnings[0]
    assert_is(stores.open().load_latest(pytest.fail), 10)
    assert stores.save(store, 21, wait=False), "the next save tries again"
    store.wait()
    assert_is(stores.open().load_latest(pytest.fail), 21)


def test_a_failed_save_is_tried_again_at_the_end(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores.open()
    with patched(monkeypatch, WRITE, full_disk):
        stores.save(store, 20, wait=False)
        with pytest.raises(StorageFull):
            stores.save(store, 20, wait=True)
    stores.save(store, 20, wait=True)
    assert_is(stores.open().load_latest(pytest.fail), 20)


def test_a_file_that_may_not_grow_is_a_full_disk(stores: Stores) -> None:
    """A real refusal by the kernel, in the middle of a file."""
    store = stores.open()
    stores.save(store, 10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, hard))
    try:
        with pytest.raises(StorageFull, match="File too large"):
            stores.save(store, 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_is(stores.open().load_latest(pytest.fail), 10)


def test_a_directory_that_cannot_be_made_is_named(stores: Stores) -> None:
    stores.directory.write_text("in the way")
    with pytest.raises(FileExistsError, match="checkpoints"):
        stores.open()


# Rolling back


def test_going_back_forgets_what_came_after(stores: Stores) -> None:
    saved(stores, 10, 20, 30, 40, newest=4)
    store = stores.open(newest=4)
    assert_is(store.load_latest(), 40)
    assert_is(store.load_at_or_before(29, pytest.fail), 20)
    assert steps_in(stores.directory) == [10, 20]
    assert stores.save(store, 25, wait=False)
    store.wait()
    assert_is(stores.open().load_latest(pytest.fail), 25)


def test_going_back_passes_over_a_damaged_one(stores: Stores) -> None:
    saved(stores, 10, 20, 30, newest=3)
    next((stores.directory / "step-00000020").glob("optimizer-*")).write_bytes(b"?")
    assert_is(stores.open().load_at_or_before(25), 10)
    assert len(stores.warnings) == 1
    assert "step-00000020" in stores.warnings[0]


def test_going_back_to_nothing_keeps_what_there_is(stores: Stores) -> None:
    saved(stores, 10)
    assert stores.open().load_at_or_before(5) is None
    assert steps_in(stores.directory) == [10]


def test_the_same_step_can_be_saved_with_other_progress_after_going_back(stores: Stores) -> None:
    saved(stores, 10, 20)
    store = stores.open()
    store.load_at_or_before(10)
    store.saved_step = None
    stores.save(store, 10, incidents=["spike at 12"])
    checkpoint = stores.open().load_latest(pytest.fail)
    assert_is(checkpoint, 10)
    assert checkpoint is not None
    assert checkpoint.progress["incidents"] == ["spike at 12"]
    files = {path.name for path in (stores.directory / "step-00000010").iterdir()}
    assert files == {"checkpoint.json", *checkpoint.description.files}, "the files it replaced are gone"


def test_the_newest_is_by_age_not_by_step(stores: Stores) -> None:
    """After a roll-back whose clearing away was cut short, older history of later steps does not win."""
    saved(stores, 40)
    store = stores.open()
    store.load_latest()
    stores.save(store, 30)
    assert_is(stores.open().load_latest(pytest.fail), 30)


def test_the_description_is_plain_json(stores: Stores) -> None:
    saved(stores, 10)
    content = json.loads((stores.directory / "step-00000010" / "checkpoint.json").read_text())
    assert content["step"] == 10
    matrix = content["tensors"]["weights.matrix"]
    assert matrix["shape"] == [3, 5]
    assert [(piece["start"], piece["stop"]) for piece in matrix["slices"]] == [(0, 15)]
