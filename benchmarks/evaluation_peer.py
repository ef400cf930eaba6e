"""The benchmarks through our adapter and through lm-eval's own `hf` backend: the same results, and how much sooner.

A small Mamba-2 hybrid is trained for some minutes on the Python installation's documentation, exported to Hugging
Face form, and both sides answer the same tasks (lm-eval's, over the same rows) in turns, in one process. The peer
gets the batch size it is fastest with on a first part of each benchmark.

    python -m benchmarks.evaluation_peer --data ../shared/eval-data
"""

from __future__ import annotations

from infra.quiet import apply_quiet_environment

apply_quiet_environment()

import argparse  # noqa: E402 (the quiet environment comes before anything that might read it)
import math  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

# Its Triton kernels, picked where flash-linear-attention is installed, need a GPU.
sys.modules["fla"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.training_text import CACHE, installed_docs, standard_library_docs, tokens_of  # noqa: E402
from infra.artifacts import Artifact, ArtifactStore  # noqa: E402
from model import HybridLM, ModelConfig, save  # noqa: E402
from model.exports.hugging_face import save_hugging_face  # noqa: E402
from model.interface import open_model  # noqa: E402
from tasks.evaluation.benchmarks import BENCHMARKS, BenchmarkName, BenchmarksConfig  # noqa: E402
from tasks.evaluation.benchmarks.adapter import InterfaceLM  # noqa: E402
from tasks.evaluation.benchmarks.data import read_data, shots_of  # noqa: E402
from tasks.evaluation.benchmarks.harness import Sample, build_tasks, run_tasks  # noqa: E402
from tasks.tokenization import TOKENIZER_FILE, TokenDataset  # noqa: E402

BATCH_SIZES = (1, 4, 16, 32)
PROBED_ITEMS = 16
CONFIG = ModelConfig(
    vocabulary_size=4096, width=256, layer_count=4, pattern=("mamba2", "mamba2", "mamba2", "attention"),
    attention_heads=4, key_value_heads=2, feed_forward_width=512, mamba2_head_dim=64, mamba2_state_size=64,
    maximum_context=2048,
)  # fmt: skip


def main() -> None:
    """Train once, then measure each benchmark on both sides."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=["mmlu", "piqa", "gsm8k", "wikitext"])
    parser.add_argument("--limit", type=int, help="items of each benchmark; by default all, and 64 of gsm8k")
    parser.add_argument("--updates", type=int, default=300)
    arguments = parser.parse_args()
    directory = CACHE / "evaluation_peer"
    _prepare(directory, arguments.updates)
    ours = InterfaceLM(open_model(directory / "ours"))
    for name in map(BenchmarkName, arguments.tasks):
        limit = arguments.limit or (64 if name is BenchmarkName.GSM8K else None)
        _measure(ours, directory / "hf", name, BenchmarksConfig(data_directory=str(arguments.data), limit=limit))


def _measure(ours: InterfaceLM, exported: Path, name: BenchmarkName, config: BenchmarksConfig) -> None:
    batch_size = _fastest_batch(exported, name, config)
    peer = _peer(exported, batch_size)
    our_seconds, our_samples = _run(ours, name, config)
    peer_seconds, peer_samples = _run(peer, name, config)
    for metric in our_samples[0].values:
        mine, theirs = _aggregate(our_samples, metric), _aggregate(peer_samples, metric)
        print(f"{name:9} {metric:30} ours {mine:.6f}  hf {theirs:.6f}  difference {abs(mine - theirs):.1e}")
    unequal = sum(not _alike(one, other) for one, other in zip(our_samples, peer_samples, strict=True))
    print(
        f"{name:9} {len(our_samples)} items, {unequal} of them not alike; ours {our_seconds:.1f} s, "
        f"hf {peer_seconds:.1f} s (batches of {batch_size}): ratio {peer_seconds / our_seconds:.2f}",
        flush=True,
    )


def _run(model: Any, name: BenchmarkName, config: BenchmarksConfig) -> tuple[float, list[Sample]]:
    """Seconds of the whole evaluation, making of prompts and scoring of answers included."""
    benchmark = BENCHMARKS[name]
    data = read_data(config, benchmark)
    started = time.perf_counter()
    tasks = build_tasks(benchmark, data, shots_of(config, benchmark), config.seed)
    samples = run_tasks(model, tasks, config.limit)
    return time.perf_counter() - started, samples


def _fastest_batch(exported: Path, name: BenchmarkName, config: BenchmarksConfig) -> int:
    items = 2 if name is BenchmarkName.WIKITEXT else PROBED_ITEMS
    probe = config.model_copy(update={"limit": min(items, config.limit or items)})
    return min(BATCH_SIZES, key=lambda size: _run(_peer(exported, size), name, probe)[0])


def _peer(exported: Path, batch_size: int) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(exported), device="cpu", dtype="float32", batch_size=batch_size)


def _aggregate(samples: list[Sample], metric: str) -> float:
    values = [sample.values[metric] for sample in samples]
    if not isinstance(values[0], tuple):
        return float(np.mean(values))
    loss = -math.fsum(value for value, _ in values) / sum(count for _, count in values)
    return loss / math.log(2) if metric == "bits_per_byte" else math.exp(loss)


def _alike(one: Sample, other: Sample) -> bool:
    return all(np.allclose(one.values[key], other.values[key], rtol=1e-4, atol=1e-4) for key in one.values)


def _prepare(directory: Path, updates: int) -> None:
    if (directory / "hf" / "config.json").exists():
        return
    place = CACHE / "evaluation_peer_data"
    store = ArtifactStore.open(str(place), place / "cache")
    tokens = tokens_of([standard_library_docs(), installed_docs()], store)
    model = _train(tokens, updates)
    save(model, directory / "ours")
    (directory / "ours" / TOKENIZER_FILE).write_bytes(tokens.path(TOKENIZER_FILE).read_bytes())
    save_hugging_face(model, directory / "hf", tokens.path(TOKENIZER_FILE))


def _train(tokens: Artifact, updates: int, rows: int = 8, context: int = 256) -> HybridLM:
    torch.manual_seed(0)
    stream = np.concatenate([np.asarray(shard.tokens) for shard in TokenDataset.open(tokens, "train").shards])
    model = HybridLM(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=updates)
    random = np.random.default_rng(0)
    for update in range(updates):
        starts = random.integers(len(stream) - context - 1, size=rows)
        batch = torch.from_numpy(np.stack([stream[start : start + context + 1] for start in starts]).astype(np.int64))
        loss = model.loss(batch[:, :-1], batch[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if update % 50 == 0 or update == updates - 1:
            print(f"update {update}: {loss.item():.3f} nats a token", flush=True)
    return model.eval()


if __name__ == "__main__":
    main()
