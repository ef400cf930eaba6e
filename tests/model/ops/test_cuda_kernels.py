"""Which operations go to GPU kernels, and what they are called with.

No GPU is needed: the choice is forced, and kernels are replaced by ones that record. That fla's real kernels give
the right results through the same functions is tested in `test_fla_kernels`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.errors import ConfigurationError
from model.ops import cuda_kernels
from model.ops.attention import causal_attention, continued_attention, document_attention
from model.ops.gated_delta_rule import chunk_gated_delta_rule, step_gated_delta_rule
from model.ops.gated_linear_attention import chunk_gated_linear_attention, step_gated_linear_attention

RECURRENCES: list[tuple[Callable[..., Any], Callable[..., Any], str, bool]] = [
    (chunk_gated_linear_attention, step_gated_linear_attention, "gated_linear_attention", False),
    (chunk_gated_delta_rule, step_gated_delta_rule, "gated_delta_rule", True),
]


@pytest.fixture(autouse=True)
def _undecided() -> Iterator[None]:
    cuda_kernels.installed.cache_clear()
    yield
    cuda_kernels.installed.cache_clear()


class Recorder:
    """Stands in for `flash_attn`'s module; returns the queries."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Tensor, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., Tensor]:
        def kernel(*tensors: Tensor, **options: Any) -> Tensor:
            self.calls.append((name, tensors, options))
            return tensors[0]

        return kernel


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(cuda_kernels, "takes", lambda tensor, package: package == "flash_attn")
    monkeypatch.setattr(cuda_kernels, "import_module", lambda name: recorder)
    return recorder


def heads(time: int, count: int = 4, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(2, count, time, 16).to(dtype)


def test_without_cuda_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cuda_kernels, "import_module", lambda name: pytest.fail(f"imports {name}"))
    assert cuda_kernels.installed() == frozenset()


def test_with_cuda_what_can_be_imported_is_used_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def import_module(name: str) -> SimpleNamespace:
        if name == "flash_attn":
            raise ImportError("no such library")
        return SimpleNamespace()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda_kernels, "import_module", import_module)
    caplog.set_level(logging.INFO)
    for _ in range(2):
        assert cuda_kernels.installed() == {"fla", "mamba_ssm"}
    messages = [record.message for record in caplog.records]
    assert messages == [
        "GPU kernels of fla: used",
        "GPU kernels of flash_attn: plain PyTorch instead (no such library)",
        "GPU kernels of mamba_ssm: used",
    ]


def test_the_environment_forces_plain_pytorch_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda_kernels, "import_module", lambda name: SimpleNamespace())
    monkeypatch.setenv("SAM2_KERNELS", "torch")
    assert cuda_kernels.installed() == frozenset()
    cuda_kernels.installed.cache_clear()
    monkeypatch.setenv("SAM2_KERNELS", "trition")
    with pytest.raises(ConfigurationError, match="SAM2_KERNELS='trition' is unknown"):
        cuda_kernels.installed()


def test_tensors_on_the_cpu_never_go_to_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_kernels, "installed", lambda: frozenset(cuda_kernels.PACKAGES))
    assert not any(cuda_kernels.takes(torch.zeros(1), package) for package in cuda_kernels.PACKAGES)


@pytest.mark.parametrize(("chunked", "step", "name", "has_beta"), RECURRENCES)
def test_recurrences_hand_everything_over(
    chunked: Callable[..., Any],
    step: Callable[..., Any],
    name: str,
    has_beta: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def kernel(*tensors: Tensor, **options: Any) -> tuple[Tensor, str]:
        calls.append((tensors, options))
        return tensors[0], "state"

    monkeypatch.setattr(cuda_kernels, "takes", lambda tensor, package: package == "fla")
    monkeypatch.setattr(cuda_kernels, name, kernel)
    decay_shape = (2, 5, 3) if has_beta else (2, 5, 3, 4)
    parts = [torch.randn(2, 5, 3, 4) for _ in range(3)] + [-torch.rand(decay_shape)] + [torch.rand(2, 5, 3)] * has_beta
    state, starts = torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, dtype=torch.bool)

    output, after = chunked(*parts, initial_state=state, document_starts=starts)
    assert output is parts[0] and after == "state"
    assert all(given is part for given, part in zip(calls[0][0], parts, strict=True))
    assert calls[0][1] == {"scale": 0.5, "initial_state": state, "document_starts": starts}

    output, after = step(*(part[:, 0] for part in parts), state, scale=2.0)
    assert torch.equal(output, parts[0][:, 0]) and after == "state"
    assert all(torch.equal(given, part[:, :1]) for given, part in zip(calls[1][0], parts, strict=True))
    assert calls[1][1]["scale"] == 2.0 and calls[1][1]["initial_state"] is state


@pytest.mark.parametrize("operation", [causal_attention, continued_attention])
def test_attention_hands_flash_attention_its_layout(operation: Callable[..., Tensor], flash: Recorder) -> None:
    past = 0 if operation is causal_attention else 6
    query, key, value = heads(5), heads(5 + past, count=2), heads(5 + past, count=2)
    assert torch.equal(operation(query, key, value), query)
    ((name, tensors, options),) = flash.calls
    assert name == "flash_attn_func" and options == {"causal": True}
    assert [part.shape for part in tensors] == [(2, 5, 4, 16), (2, 5 + past, 2, 16), (2, 5 + past, 2, 16)]
    assert torch.equal(tensors[1], key.transpose(1, 2))


def test_documents_go_to_one_call_with_their_boundaries(flash: Recorder) -> None:
    query, key, value = heads(10), heads(10, count=2), heads(10, count=2)
    assert torch.equal(document_attention(query, key, value, [3, 7, 10]), query)
    ((name, tensors, options),) = flash.calls
    assert name == "flash_attn_varlen_func"
    assert [part.shape for part in tensors] == [(20, 4, 16), (20, 2, 16), (20, 2, 16)]
    assert torch.equal(tensors[2].unflatten(0, (2, 10)).transpose(1, 2), value)
    for side in "qk":
        assert options[f"cu_seqlens_{side}"].tolist() == [0, 3, 10, 20]
        assert options[f"cu_seqlens_{side}"].dtype == torch.int32
        assert options[f"max_seqlen_{side}"] == 10
    assert options["causal"] is True


def test_what_flash_attention_has_no_kernel_for_stays_with_pytorch(flash: Recorder) -> None:
    causal_attention(heads(5, dtype=torch.float32), heads(5, 2, torch.float32), heads(5, 2, torch.float32))
    wide = torch.randn(1, 1, 3, 512).bfloat16()
    causal_attention(wide, wide, wide)
    assert flash.calls == []


def test_document_boundaries_are_counted_once_a_batch_of_documents() -> None:
    starts = torch.tensor([[0, 0, 1], [1, 1, 0]]).bool()
    packing = cuda_kernels._packing(starts)
    assert cuda_kernels._packing(starts) is packing
    assert packing.boundaries.tolist() == [0, 2, 3, 4, 6]
    assert (packing.first.tolist(), packing.last.tolist()) == ([0, 2], [1, 3])
    assert packing.continues.tolist() == [True, False]
