"""Attributes of the model that trade time for memory change neither loss nor gradients, and save what they say."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest
import torch
from torch import Tensor

from model import ConfigurationError, HybridLM, activation_offload
from tests.support.trained_models import small_config


def loss_and_gradients(model: HybridLM, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
    loss = model.loss(rows[:, :-1], rows[:, 1:])
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.fixture
def rows() -> Tensor:
    return torch.randint(0, 256, (2, 151))


@pytest.fixture
def recomputed() -> HybridLM:
    model = HybridLM(small_config("hgrn2"))
    model.gradient_checkpointing = True
    return model


def test_offloaded_inputs_of_blocks_come_back_as_they_were(
    recomputed: HybridLM, rows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_loss, expected = loss_and_gradients(recomputed, rows)
    taken: list[Tensor] = []
    given: list[Tensor] = []

    class Recorded(activation_offload._Transfers):
        def take(self, tensor: Tensor) -> object:
            kept = super().take(tensor)
            if kept is not tensor:
                taken.append(tensor.detach().clone())
            return kept

        def give(self, kept: object) -> Tensor:
            tensor = super().give(kept)
            if tensor is not kept:
                given.append(tensor)
            return tensor

    monkeypatch.setattr(activation_offload, "_Transfers", Recorded)
    recomputed.offload_activations = True
    loss, gradients = loss_and_gradients(recomputed, rows)
    assert torch.equal(loss, expected_loss)
    assert all(torch.equal(one, other) for one, other in zip(gradients, expected, strict=True))
    assert len(taken) == recomputed.config.layer_count
    assert all(torch.equal(one, other) for one, other in zip(taken, reversed(given), strict=True))


def test_offloaded_inputs_are_not_held_where_they_were(recomputed: HybridLM, rows: Tensor) -> None:
    """The hidden state that enters the second block is freed, although the loss's graph is alive."""
    entered: list[weakref.ref[Tensor]] = []
    recomputed.layers[1].register_forward_pre_hook(lambda _module, args: entered.append(weakref.ref(args[0])))
    recomputed.offload_activations = True
    loss = recomputed.loss(rows[:, :-1], rows[:, 1:])
    assert loss.requires_grad and entered[0]() is None


class _FakeGPU:
    """Records what is asked of a GPU: `torch` as the module under test sees it, its tensors and its streams."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.stream = "computing"
        monkeypatch.setattr(torch.cuda, "Stream", lambda _device: _FakeStream(self, "copying"))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: _FakeStream(self, self.stream))
        monkeypatch.setattr(torch.cuda, "stream", self.on)
        monkeypatch.setattr(torch, "empty", lambda shape, dtype, pin_memory: _FakeTensor(self, "host", pin_memory))

    @contextmanager
    def on(self, stream: _FakeStream) -> Iterator[None]:
        before, self.stream = self.stream, stream.name
        yield
        self.stream = before


class _FakeStream:
    def __init__(self, gpu: _FakeGPU, name: str) -> None:
        self.gpu, self.name = gpu, name

    def wait_stream(self, other: _FakeStream) -> None:
        self.gpu.calls.append(f"{self.name} waits for {other.name}")


class _FakeTensor:
    is_cuda, device, shape, dtype = True, torch.device("cuda"), (1, 2, 3), torch.float32

    def __init__(self, gpu: _FakeGPU, name: str, pinned: bool = False) -> None:
        self.gpu, self.name, self.pinned = gpu, name, pinned

    def dim(self) -> int:
        return len(self.shape)

    def is_floating_point(self) -> bool:
        return True

    def copy_(self, other: _FakeTensor, non_blocking: bool) -> None:
        assert self.pinned and non_blocking
        self.name = f"{other.name} on the host"
        self.gpu.calls.append(f"{self.gpu.stream}: take {other.name}")

    def to(self, _device: torch.device, non_blocking: bool) -> _FakeTensor:
        assert non_blocking
        self.gpu.calls.append(f"{self.gpu.stream}: bring {self.name}")
        return _FakeTensor(self.gpu, f"{self.name}, back")

    def record_stream(self, stream: _FakeStream) -> None:
        self.gpu.calls.append(f"{self.name} is used by {stream.name}")


def test_copies_to_and_from_a_gpu_go_beside_the_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = _FakeGPU(monkeypatch)
    transfers = activation_offload._Transfers()
    kept = [transfers.take(cast("Tensor", _FakeTensor(gpu, name))) for name in ("first", "second")]
    taken = [
        ("copying waits for computing", f"copying: take {name}", f"{name} is used by copying")
        for name in ("first", "second")
    ]
    assert gpu.calls == [call for calls in taken for call in calls]
    gpu.calls.clear()
    transfers.give(kept[1])
    assert gpu.calls == [
        "copying: bring second on the host",
        "computing waits for copying",
        "second on the host, back is used by computing",
        "copying: bring first on the host",
    ]
    gpu.calls.clear()
    transfers.give(kept[0])
    assert gpu.calls == ["computing waits for copying", "first on the host, back is used by computing"]


def test_offloading_needs_recomputation(rows: Tensor) -> None:
    model = HybridLM(small_config("hgrn2"))
    model.offload_activations = True
    with pytest.raises(ConfigurationError, match="set gradient_checkpointing as well"):
        model.loss(rows[:, :-1], rows[:, 1:])
    with torch.no_grad():
        assert model.loss(rows[:, :-1], rows[:, 1:]).isfinite()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("chunk", [40, 150, 1000])
def test_feed_forwards_in_chunks(recompute: bool, chunk: int, rows: Tensor) -> None:
    model = HybridLM(small_config("hgrn2", layer_count=2))
    expected_loss, expected = loss_and_gradients(model, rows)
    model.gradient_checkpointing, model.feed_forward_chunk_tokens = recompute, chunk
    loss, gradients = loss_and_gradients(model, rows)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=1e-6)
    for gradient, other in zip(gradients, expected, strict=True):
        assert (gradient - other).abs().max() <= 1e-5 * other.abs().max()


def test_feed_forwards_in_chunks_hold_no_inner_activations() -> None:
    model = HybridLM(small_config("hgrn2", layer_count=2))
    rows = torch.randint(0, 256, (1, 513))

    def kept(chunk: int | None) -> int:
        model.feed_forward_chunk_tokens = chunk
        held: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model.loss(rows[:, :-1], rows[:, 1:])
        assert loss.requires_grad
        return sum(held.values())

    inner = 4 * 4 * model.config.feed_forward_width * 512 * model.config.layer_count
    assert kept(None) - kept(64) >= inner


def test_chunks_of_feed_forwards_have_tokens() -> None:
    model = HybridLM(small_config("hgrn2", layer_count=1))
    with pytest.raises(ConfigurationError, match="feed_forward_chunk_tokens=0"):
        model.feed_forward_chunk_tokens = 0
    model.feed_forward_chunk_tokens = 8
    assert model.feed_forward_chunk_tokens == 8
