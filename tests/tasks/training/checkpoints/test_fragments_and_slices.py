"""Cutting tensors up, writing the pieces, reading them by slices, and copying them from a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from infra.errors import ArtifactCorrupted
from infra.storage.checksum import checksum_file
from model import HybridLM, load
from tasks.training.checkpoints import (
    Fragment,
    OptimizerState,
    WholeTensors,
    deal,
    whole,
    write_model,
    write_optimizer,
)
from tasks.training.checkpoints.description import Description, PartNote, Slice, TensorRecord, merge
from tasks.training.checkpoints.safetensors_stream import write_safetensors
from tasks.training.checkpoints.snapshot import Snapshot
from tests.tasks.training.checkpoints.conftest import SHAPES, Stores, fragments, whole_state
from tests.tasks.training.conftest import MODEL


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5), ranks=st.integers(1, 7))
def test_every_value_is_dealt_to_one_rank_and_evenly(lengths: list[int], ranks: int) -> None:
    pieces = [Fragment(str(number), (length,), 0, torch.arange(length)) for number, length in enumerate(lengths)]
    shares = [list(deal(pieces, rank, ranks)) for rank in range(ranks)]
    values = [(piece.tensor, value) for share in shares for piece in share for value in piece.values.tolist()]
    assert values == [(str(number), value) for number, length in enumerate(lengths) for value in range(length)]
    assert all(piece.values[0] == piece.start for share in shares for piece in share)
    sizes = [sum(piece.values.numel() for piece in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_the_files_are_what_safetensors_reads(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4), "b": torch.randn(5), "umlaut-ä": torch.randn(1, 1, 2)}
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    values = [piece for value in tensors.values() for piece in value.flatten().split(2)]
    checksum, size = write_safetensors(tmp_path / "file", shapes, values, metadata={"format": "pt"})
    assert (checksum, size) == (checksum_file(tmp_path / "file"), (tmp_path / "file").stat().st_size)
    found = load_file(tmp_path / "file")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


@pytest.mark.parametrize("shape", [(7,), (4, 3), (2, 3, 5)])
@settings(max_examples=20)
@given(data=st.data())
def test_part_of_a_whole_tensor_is_read(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], data: st.DataObject
) -> None:
    value = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    path = tmp_path_factory.getbasetemp() / f"whole-{len(shape)}.safetensors"
    if not path.exists():
        save_file({"w": value}, path)
    start = data.draw(st.integers(0, value.numel()))
    stop = data.draw(st.integers(start, value.numel()))
    source = WholeTensors(path)
    assert source.shape("weights.w") == shape
    assert torch.equal(source.read("weights.w", start, stop), value.flatten()[start:stop])


def test_weights_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactCorrupted, match=r"model\.safetensors"):
        WholeTensors(tmp_path / "model.safetensors")


def test_slices_that_leave_a_gap_or_overlap_are_no_tensor() -> None:
    def part(*slices: tuple[int, int], shape: tuple[int, ...] = (2, 3)) -> dict[str, TensorRecord]:
        pieces = tuple(Slice(file="f", start=start, stop=stop) for start, stop in slices)
        return {"w": TensorRecord(shape=shape, slices=pieces)}

    assert [piece.start for piece in merge([part((4, 6)), part((0, 1), (1, 4))])["w"].slices] == [0, 1, 4]
    for wrong in (part((0, 3)), part((0, 3), (2, 6)), part((1, 6)), part((0, 6), (6, 9))):
        with pytest.raises(ValueError, match="do not make it whole"):
            merge([wrong])
    with pytest.raises(ValueError, match="has the shapes"):
        merge([part((0, 3)), part((3, 6), shape=(6,))])


def test_records_know_their_own_checksum() -> None:
    note = PartNote(files={}, tensors={}, series={"history": "file"})
    assert PartNote.decode(note.encode(), "note") == note
    described = Description(
        step=1, sequence=2, ranks=3, files={}, tensors={}, series={}, progress={"loss": 0.1 + 0.2, "by": {"2": (1, 2)}}
    )
    decoded = Description.decode(described.encode(), "it")
    assert decoded.progress == {"loss": 0.1 + 0.2, "by": {"2": [1, 2]}}
    assert decoded.encode() == described.encode()
    for data in (note.encode().replace(b"file", b"life"), b"", b"{}", b"[1]", b"null", b"\xff\xfe"):
        with pytest.raises(ArtifactCorrupted, match="'note' cannot be read"):
            PartNote.decode(data, "note")


# A finished stage's files


def saved_model(stores: Stores, ranks: int = 1) -> HybridLM:
    """A checkpoint of a small model, as so many ranks write it."""
    torch.manual_seed(0)
    model = HybridLM(MODEL)
    weights = {f"weights.{name}": value.detach() for name, value in model.named_parameters()}
    state = weights | {name.replace("weights", "exp_avg"): value * 0.1 for name, value in weights.items()}
    pieces = [Fragment(name, tuple(value.shape), 0, value) for name, value in state.items()]
    stores.open().save(5, pieces, {"optimizer_step": 12}, wait=True)
    return model


def test_the_finished_model_is_as_the_model_saves_it(stores: Stores, tmp_path: Path) -> None:
    model = saved_model(stores)
    checkpoint = stores.open().load_latest(pytest.fail)
    assert checkpoint is not None
    write_model(checkpoint, MODEL, tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    loaded = load(tmp_path / "model")
    assert loaded.config == MODEL
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_the_optimizer_goes_to_the_next_stage_without_a_copy(stores: Stores, tmp_path: Path) -> None:
    stores.save(stores.open(), 10)
    checkpoint = stores.open().load_latest(pytest.fail)
    assert checkpoint is not None
    for _ in range(2):  # the second time over what a killed attempt left
        write_optimizer(checkpoint, 110, tmp_path / "optimizer")
    names = sorted(path.name for path in (tmp_path / "optimizer").iterdir())
    assert names == ["index.json", "optimizer-00000-of-00001.safetensors"]
    assert (tmp_path / "optimizer" / names[1]).stat().st_nlink == 2
    state = OptimizerState(tmp_path / "optimizer")
    assert state.optimizer_step == 110
    assert set(state.tensors) == {f"{moment}.{name}" for moment in ("exp_avg", "exp_avg_sq") for name in SHAPES}
    for name in state.tensors:
        assert torch.equal(whole(state, name), whole_state(10)[name])


def test_it_is_copied_where_there_are_no_links(stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores.save(stores.open(), 10)
    checkpoint = stores.open().load_latest(pytest.fail)
    assert checkpoint is not None

    def refused(self: Path, target: Path) -> None:
        raise OSError("links are not supported")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    write_optimizer(checkpoint, 110, tmp_path / "optimizer")
    assert torch.equal(
        whole(OptimizerState(tmp_path / "optimizer"), "exp_avg.vector"), whole_state(10)["exp_avg.vector"]
    )


def test_an_unreadable_optimizer_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("garbage")
    with pytest.raises(ArtifactCorrupted, match=r"index\.json.*train the previous stage again"):
        OptimizerState(tmp_path)


# Copies in main memory


def test_the_memory_is_used_again(stores: Stores) -> None:
    snapshot = Snapshot()
    first = snapshot.take(fragments(10))
    second = snapshot.take(fragments(20))
    assert [piece.values.data_ptr() for piece in first] == [piece.values.data_ptr() for piece in second]
    assert all(
        torch.equal(piece.values, expected.values) for piece, expected in zip(second, fragments(20), strict=True)
    )
    snapshot.wait()
    snapshot.before_update()  # nothing to come after on CPU


class RecordedGpu:
    """Stands for torch.cuda's streams and events, and writes down what is asked of them."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.name = "training"

    def Stream(self) -> RecordedStream:  # noqa: N802 # torch's name
        return RecordedStream(self, "copying")

    def Event(self) -> RecordedEvent:  # noqa: N802 # torch's name
        return RecordedEvent(self)

    def current_stream(self) -> RecordedStream:
        return RecordedStream(self, self.name)

    def stream(self, stream: RecordedStream) -> RecordedStream:
        return stream


class RecordedStream:
    def __init__(self, gpu: RecordedGpu, name: str) -> None:
        self.gpu, self.name = gpu, name

    def __enter__(self) -> None:
        self.gpu.name = self.name

    def __exit__(self, *error: object) -> None:
        self.gpu.name = "training"

    def wait_stream(self, other: RecordedStream) -> None:
        self.gpu.calls.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: RecordedEvent) -> None:
        self.gpu.calls.append(f"{self.name} waits for the event")


class RecordedEvent:
    def __init__(self, gpu: RecordedGpu) -> None:
        self.gpu = gpu

    def record(self, stream: RecordedStream) -> None:
        self.gpu.calls.append(f"event on {stream.name}")

    def synchronize(self) -> None:
        self.gpu.calls.append("writer waits for the event")


class OnGpu:
    """A tensor that says it is on a GPU and records how it is copied."""

    is_cuda = True

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values
        self.numel = values.numel
        self.detach = self.flatten = lambda: self


def test_from_a_gpu_it_is_copied_beside_training_and_the_next_update_comes_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = RecordedGpu()
    copied: list[tuple[str, bool]] = []
    pinned: list[bool] = []
    empty = torch.empty

    def recorded_empty(*shape: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        pinned.append(pin_memory)
        return empty(*shape, **options)

    for name in ("Stream", "Event", "current_stream", "stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(gpu, name))
    monkeypatch.setattr(torch, "empty", recorded_empty)
    monkeypatch.setattr(
        torch.Tensor,
        "copy_",
        lambda self, source, non_blocking=False: copied.append((gpu.name, non_blocking)),
    )
    snapshot = Snapshot()
    for _ in range(2):
        snapshot.take([Fragment("weights.w", (4,), 0, OnGpu(torch.zeros(4)))])  # type: ignore[arg-type]
    snapshot.before_update()
    snapshot.wait()
    take = ["copying waits for training", "event on copying"]
    assert gpu.calls == [*take, *take, "training waits for the event", "writer waits for the event"]
    assert copied == [("copying", True)] * 2
    assert pinned[-1], "page-locked, or the copy would not run beside"
    assert sum(pinned) == 1, "taken once"
