"""Quantized formats against float32, and our threaded K-quantization against one ggml call.

    python -m benchmarks.quantization [--width 512] [--layers 8] [--context 512] [--threads N]

The model is random: speed does not depend on the weights' values. Every ratio is of medians taken
in turns (a, b, a, b, ...) in one process, so that other load on the machine falls on both sides.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType

from model import HybridLM, ModelConfig, prefill, preset
from model.exports.gguf import load_gguf, quantize, save_gguf
from model.quantization import load_int8, save_int8
from model.quantization.int8 import quantize_rows
from model.quantization.linear import DequantizedLinear, int8_linear

_DECODED = 24


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, measured in turns after one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            taken = seconds(work)
            if turn:
                times[name].append(taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


def decode(model: HybridLM, prompt: torch.Tensor) -> None:
    cache = model.new_cache()
    following = prefill(model, prompt, cache).argmax(-1, keepdim=True)
    for _ in range(_DECODED):
        following = prefill(model, following, cache).argmax(-1, keepdim=True)


def compare_formats(config: ModelConfig, context: int, rounds: int) -> None:
    """Prefill and decode of float32, int8 and a Q4_K_M file dequantized by our reader."""
    original = HybridLM(config).eval()
    with tempfile.TemporaryDirectory() as directory:
        save_int8(original, Path(directory) / "int8")
        save_gguf(original, Path(directory) / "model.gguf", "q4_k_m")
        models = {
            "fp32": original,
            "int8": load_int8(Path(directory) / "int8"),
            "q4_k_m, our reader": load_gguf(Path(directory) / "model.gguf"),
        }
    prompt = torch.arange(context).remainder(config.vocabulary_size).unsqueeze(0)
    prefills = in_turns(
        {name: lambda model=model: prefill(model, prompt, model.new_cache()) for name, model in models.items()}, rounds
    )
    decodes = in_turns(
        {name: lambda model=model: decode(model, prompt[:, :8]) for name, model in models.items()}, rounds
    )
    for name in models:
        print(
            f"{name:20s} prefill {context / prefills[name]:9.0f} tokens/s ({prefills['fp32'] / prefills[name]:.2f}x)"
            f"   decode {_DECODED / decodes[name]:7.1f} tokens/s ({decodes['fp32'] / decodes[name]:.2f}x)"
        )


def compare_int8_layers(rounds: int) -> None:
    """One 1024 x 1024 product three ways: why `_weight_int8pack_mm` is not the fallback."""
    weight, hidden = torch.randn(1024, 1024), torch.randn(256, 1024)
    rows, scales = quantize_rows(weight)
    dynamic, dequantized = int8_linear(rows, scales), DequantizedLinear(rows, scales)
    with torch.inference_mode():
        times = in_turns(
            {
                "fp32": lambda: torch.nn.functional.linear(hidden, weight),
                "dynamic int8": lambda: dynamic(hidden),
                "dequantized int8": lambda: dequantized(hidden),
                "_weight_int8pack_mm": lambda: torch.ops.aten._weight_int8pack_mm(hidden, rows, scales),
            },
            rounds,
        )
    for name, taken in times.items():
        print(f"{name:20s} 256 rows {1000 * taken:8.2f} ms ({times['fp32'] / taken:.2f}x fp32)")


def compare_quantizers(rounds: int, threads: int | None) -> None:
    """Q4_K of an 8 Mi-weight matrix: rows over threads against one `ggml_quantize_chunk` call."""
    weights = np.random.default_rng(0).normal(size=(4096, 2048)).astype(np.float32)
    kind = GGMLQuantizationType.Q4_K
    times = in_turns(
        {"one call": lambda: quantize(weights, kind, 1), "threads": lambda: quantize(weights, kind, threads)}, rounds
    )
    for name, taken in times.items():
        speed = weights.size / taken / 1e6
        print(f"Q4_K, {name:14s} {speed:8.1f} M weights/s ({times['one call'] / taken:.2f}x)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="threads that quantize; one a core by default")
    chosen = parser.parse_args()
    shape = {
        "width": chosen.width, "layer_count": chosen.layers, "feed_forward_width": 2 * chosen.width,
        "attention_heads": chosen.width // 64, "key_value_heads": 2,
    }  # fmt: skip
    config = preset("smoke").changed(**shape)
    compare_formats(config, chosen.context, chosen.rounds)
    compare_int8_layers(chosen.rounds)
    compare_quantizers(chosen.rounds, chosen.threads)


if __name__ == "__main__":
    main()
