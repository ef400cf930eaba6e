"""Bytes a token that layers take, measured; as a program, of those whose kernels are fla's (in the interpreter)."""

from __future__ import annotations

import gc
import importlib
import json
from collections.abc import Callable

import torch
from torch import Tensor

from model import ModelConfig
from model.layers import Block, SwiGLU
from model.ops import cuda_kernels
from model.sequence import Sequence
from tests.support.live_memory import LiveMemory

ALL_MIXERS = ("attention", "gated_deltanet", "hgrn2", "mamba2")
#: Long enough that the tiles of the gated norms are a small part.
LENGTHS = (2048, 4096)
_FUSED_CASES: tuple[tuple[str, dict[str, object]], ...] = (
    ("hgrn2", {}), ("hgrn2", {"hgrn2_head_dim": 128}), ("gated_deltanet", {"gated_deltanet_head_dim": 64}),
)  # fmt: skip


def layer_config(kind: str) -> ModelConfig:
    """Two layers of one kind; narrow."""
    return ModelConfig(
        vocabulary_size=64, width=128, layer_count=2, layer_kinds=(kind, kind), attention_heads=4, key_value_heads=1,
        feed_forward_width=256, hgrn2_head_dim=64, gated_deltanet_head_dim=32, mamba2_head_dim=32, mamba2_state_size=32,
    )  # fmt: skip


def measured_mixer(kind: str, config: ModelConfig, dtype: torch.dtype) -> tuple[float, float]:
    """Bytes a token kept for the backward pass, and at its fullest moment; output and its gradient not counted."""
    assert kind == config.mixer_kinds[1]

    def make(time: int) -> tuple[torch.nn.Module, Callable[[Tensor], Tensor]]:
        mixer = Block(config, 1).attn.to(dtype)
        sequence = Sequence(config, 1, time, torch.device("cpu"))
        assert sequence.rotary is not None  # made before anything is measured
        bound = torch.full((config.width,), 0.1, requires_grad=True) if mixer.has_lower_bound else None
        return mixer, lambda hidden: mixer(hidden, sequence, bound)

    return _per_token(make, config.width, dtype)


def measured_feed_forward(config: ModelConfig, dtype: torch.dtype) -> tuple[float, float]:
    """As `measured_mixer`, of the SwiGLU."""

    def make(time: int) -> tuple[torch.nn.Module, Callable[[Tensor], Tensor]]:
        module = SwiGLU(config.width, config.feed_forward_width).to(dtype)
        return module, module

    return _per_token(make, config.width, dtype)


def _per_token(
    make: Callable[[int], tuple[torch.nn.Module, Callable[[Tensor], Tensor]]], width: int, dtype: torch.dtype
) -> tuple[float, float]:
    """What two lengths differ by, so that what does not grow with the tokens drops out."""
    short, long = (_measured(make, width, dtype, time) for time in LENGTHS)
    tokens = LENGTHS[1] - LENGTHS[0]
    return (long[0] - short[0]) / tokens, (long[1] - short[1]) / tokens


def _measured(
    make: Callable[[int], tuple[torch.nn.Module, Callable[[Tensor], Tensor]]],
    width: int,
    dtype: torch.dtype,
    time: int,
) -> tuple[int, int]:
    torch.manual_seed(0)
    module, call = make(time)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    # Small, so that no decay is strong enough for shorter chunks.
    hidden = (0.3 * torch.randn(1, time, width)).to(dtype).requires_grad_()
    slope = torch.randn_like(hidden)
    gc.collect()
    gc.disable()
    try:
        with LiveMemory() as live:
            output = call(hidden)
            kept = live.now - output.nbytes
            live.start_peak()
            output.backward(slope)
            return kept, live.peak - output.nbytes
    finally:
        gc.enable()


def _main() -> None:
    import triton.runtime.interpreter

    for module in ("fla.ops.gla", "fla.ops.gated_delta_rule"):
        importlib.import_module(module)
    importlib.import_module("triton.runtime.autotuner").Autotuner._bench = lambda *_, **__: 0.0
    triton.runtime.interpreter.GridExecutor.__call__ = lambda *_, **__: None
    cuda_kernels.takes = lambda tensor, package: package == "fla"
    rows = []
    for kind, fields in _FUSED_CASES:
        kept, peak = measured_mixer(kind, layer_config(kind).changed(**fields), torch.bfloat16)
        rows.append({"kind": kind, "fields": fields, "kept": kept, "peak": peak})
    print(json.dumps(rows))


if __name__ == "__main__":
    torch.set_num_threads(1)
    _main()
