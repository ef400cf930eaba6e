"""Formats of one model side by side: size, quality, speed and memory, in torch and in llama.cpp.

    python -m benchmarks.quantization [--family hgrn2 mamba2] [--width 512] [--layers 8] [--context 512] [--threads 1]

Each family's model is trained for a minute on real text, so that perplexity and KL mean something, and each
format is measured in a process of its own, so that its peak of memory is its own. Speeds are the best of the
rounds in processor time with one thread (wall-clock time with more), which other load on the machine moves
little. HGRN-2 in llama.cpp needs the patched build (`make llama`); without it those rows are left out, and
said so. Then two parts alone: int8 products three ways, and our threaded K-quantization against one ggml call.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from gguf import GGMLQuantizationType

from model import HybridLM, ModelConfig, load, prefill, save
from model.exports.gguf import load_gguf, quantize, save_gguf
from model.llama_cpp import LlamaModel, available_builds, build_for
from model.quantization import load_int8, save_int8
from model.quantization.linear import DequantizedLinear, int8_linear
from model.quantization.weights import quantize_rows
from tests.support.trained_models import small_config, text

_DECODED = 32
_TRAINING_STEPS, _TRAINING_ROWS, _TRAINING_CONTEXT = 60, 4, 128
#: Bytes held out of training, at the end of the text, for perplexity and KL.
_HELD_OUT = 4096
#: Rows of the table: name, file, runtime. llama.cpp and our own reader run the very same files.
_ROWS = (
    ("torch fp32", "fp32", "torch"),
    ("torch int8", "int8", "torch"),
    ("torch q4_k_m, our reader", "q4_k_m.gguf", "torch"),
    ("llama.cpp f32", "f32.gguf", "llama.cpp"),
    ("llama.cpp f16", "f16.gguf", "llama.cpp"),
    ("llama.cpp q8_0", "q8_0.gguf", "llama.cpp"),
    ("llama.cpp q4_k_m", "q4_k_m.gguf", "llama.cpp"),
)
_ARCHITECTURES = {"hgrn2": "hgrn2", "mamba2": "granitehybrid", "gated_deltanet": "qwen35"}


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


def trained(config: ModelConfig) -> HybridLM:
    """A model that has learned the text's letters and words."""
    torch.manual_seed(0)
    model, tokens = HybridLM(config), text()[:-_HELD_OUT]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95))
    for _ in range(_TRAINING_STEPS):
        starts = torch.randint(0, len(tokens) - _TRAINING_CONTEXT - 1, (_TRAINING_ROWS,))
        rows = torch.stack([tokens[start : start + _TRAINING_CONTEXT + 1] for start in starts])
        loss = model.loss(rows[:, :-1], rows[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


class InTorch:
    """A file or directory of ours in torch."""

    def __init__(self, path: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        loaders = {"fp32": load, "int8": load_int8}
        self.model = loaders.get(path.name, load_gguf)(path)

    @torch.inference_mode()
    def logits(self, tokens: list[int]) -> torch.Tensor:
        return self.model(torch.tensor([tokens]))[0]

    def prefill(self, tokens: list[int]) -> None:
        prefill(self.model, torch.tensor([tokens]), self.model.new_cache())

    def decode(self, tokens: list[int]) -> None:
        cache = self.model.new_cache()
        for token in tokens:
            prefill(self.model, torch.tensor([[token]]), cache)


class InLlamaCpp:
    """A GGUF file in llama.cpp."""

    def __init__(self, path: Path, threads: int) -> None:
        torch.set_num_threads(1)
        self.model = LlamaModel(path, build_for(_ARCHITECTURES[path.parent.name]), threads)

    def logits(self, tokens: list[int]) -> torch.Tensor:
        return torch.from_numpy(self.model.logits(tokens))

    def prefill(self, tokens: list[int]) -> None:
        with self.model.session(len(tokens)) as session:
            session.read(tokens)

    def decode(self, tokens: list[int]) -> None:
        with self.model.session(len(tokens)) as session:
            for token in tokens:
                session.read([token])


def measure(path: Path, runtime: str, context: int, rounds: int, threads: int) -> None:
    """One row of the table, as JSON, from a fresh process; logits go to a file beside the model."""
    clock = time.process_time if threads == 1 else time.perf_counter
    before = psutil.Process().memory_info().rss
    opened = InTorch(path, threads) if runtime == "torch" else InLlamaCpp(path, threads)
    held_out = text()[-_HELD_OUT:].tolist()

    def best(work: Callable[[], None]) -> float:
        work()
        taken = []
        for _ in range(rounds):
            started = clock()
            work()
            taken.append(clock() - started)
        return min(taken)

    found = {
        "prefill": context / best(lambda: opened.prefill(held_out[:context])),
        "decode": _DECODED / best(lambda: opened.decode(held_out[:_DECODED])),
        "peak": peak_bytes() - before,
    }
    logits = [opened.logits(held_out[start : start + 512]).float() for start in range(0, _HELD_OUT, 512)]
    np.save(path.parent / "logits.npy", torch.cat(logits).numpy())
    print(json.dumps(found))


def peak_bytes() -> int:
    """Most memory this process has held so far."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def compare_formats(family: str, config: ModelConfig, context: int, rounds: int, threads: int) -> None:
    """The table of one family."""
    model = trained(config)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{family}, {millions:.1f}M parameters, prefill of {context} tokens, {threads} thread(s)")
    print(f"{'':26}     MB  perplexity  KL nats/token  prefill tok/s  decode tok/s  peak MB")
    has_build = build_for(_ARCHITECTURES[family]) in available_builds()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / family
        folder.mkdir()
        save(model, folder / "fp32")
        save_int8(model, folder / "int8")
        for file_format in ("f32", "f16", "q8_0", "q4_k_m"):
            save_gguf(model, folder / f"{file_format}.gguf", file_format)
        reference: torch.Tensor | None = None
        for title, file, runtime in _ROWS:
            if runtime == "llama.cpp" and not has_build:
                print(f"{title:26} not measured: the patched build is missing (make llama)")
                continue
            options = [str(folder / file), runtime, str(context), str(rounds), str(threads)]
            command = [sys.executable, "-m", "benchmarks.quantization", "--measure", *options]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            logarithms = torch.from_numpy(np.load(folder / "logits.npy")).double().log_softmax(-1)
            reference = logarithms if reference is None else reference
            print_row(title, size_bytes(folder / file), found, logarithms, reference)


def print_row(
    title: str, size: int, found: dict[str, float], logarithms: torch.Tensor, reference: torch.Tensor
) -> None:
    targets = text()[-_HELD_OUT:]
    inside = torch.arange(_HELD_OUT - 1) % 512 != 511  # each piece's last token predicts nothing that was read
    loss = -logarithms[:-1].gather(1, targets[1:, None])[inside].mean()
    divergence = (reference.exp() * (reference - logarithms)).sum(-1).mean()
    print(
        f"{title:26} {size / 1e6:6.1f}  {math.exp(loss):10.4f}  {max(0.0, float(divergence)):13.2e}  "
        f"{found['prefill']:13.0f}  {found['decode']:12.1f}  {found['peak'] / 1e6:7.0f}"
    )


def size_bytes(place: Path) -> int:
    """Of the weights on disk."""
    return place.stat().st_size if place.is_file() else max(file.stat().st_size for file in place.iterdir())


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
    parser.add_argument("--family", nargs="+", choices=sorted(_ARCHITECTURES), default=sorted(_ARCHITECTURES))
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads that compute (default: %(default)s)")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        path, runtime, *numbers = chosen.measure
        measure(Path(path), runtime, *map(int, numbers))
        return
    shape = {
        "width": chosen.width, "layer_count": chosen.layers, "feed_forward_width": 2 * chosen.width,
        "attention_heads": chosen.width // 64, "key_value_heads": 2,
    }  # fmt: skip
    torch.set_num_threads(chosen.threads)
    for family in chosen.family:
        config = small_config(family, "miniature-256")
        # What the GGUF architectures ask for; rows of Gated DeltaNet's values must fit the blocks of K-quants.
        kinds = {"layer_kinds": None, "pattern": config.mixer_kinds, "query_key_norm": family == "gated_deltanet"}
        deltas = {"gated_deltanet_value_expansion": 1, "gated_deltanet_heads": chosen.width // 32}
        config = config.changed(**shape, **kinds, **deltas)
        compare_formats(family, config, chosen.context, chosen.rounds, chosen.threads)
    compare_int8_layers(chosen.rounds)
    compare_quantizers(chosen.rounds, None)


if __name__ == "__main__":
    main()
