"""A run as the pipeline would tell it, with artifacts on disk; figures are made up for the tests alone."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.artifacts import FileEntry, Manifest
from infra.artifacts.manifest import StageCost
from infra.storage.checksum import checksum_file
from tasks.documents import Document, Removal, documents_table, removals_table, write_table
from tasks.reporting import (
    Machine,
    RegisteredVersion,
    RunSummary,
    Spend,
    StageSpend,
    StageSummary,
    TextSample,
)

HOSTILE = '<script>alert(1)</script><img src="http://evil.example/x.png">'
STAGES = ("download", "quality", "deduplication", "tokenization", "foundation", "scaling", "long context",
          "evaluation", "quantization", "registration")  # fmt: skip
_KINDS = {
    "download": "raw_documents", "quality": "filtered_documents", "deduplication": "unique_documents",
    "tokenization": "tokens", "foundation": "checkpoint", "scaling": "checkpoint", "long context": "checkpoint",
    "evaluation": "evaluation", "quantization": "quantized", "registration": "registration",
}  # fmt: skip
_SECONDS = dict(zip(STAGES, (14.2, 21.7, 6.9, 9.3, 132.0, 71.0, 58.0, 41.5, 37.2, 2.1), strict=True))
_PER_HOUR = 0.12


def _documents(directory: Path, kept: dict[str, int], removed: list[Removal]) -> None:
    for source, number in kept.items():
        text = f"Notes on {source}. " + "The function reads the file line by line and returns what it found. " * 6
        table = documents_table(
            [
                Document(f"{text} Write to ada@example.org. ({index})", source, f"/docs/{index}", "MIT")
                for index in range(number)
            ]
        )
        write_table(directory / f"documents/{source}-00000.parquet", table)
    if removed:
        write_table(directory / "removed/python-00000.parquet", removals_table(removed))


def _removal(text: str, reason: str, score: float) -> Removal:
    return Removal(Document(text, "python", "/usr/lib/x", "PSF"), reason, score)


def _write_download(directory: Path) -> dict[str, Any]:
    _documents(directory, {"python": 310, "debian": 220, "wikitext": 90}, [_removal("", "empty", 0.0)])
    rows = [
        {"Source": name, "Licence": licence, "Found": found, "Kept": found, "Megabytes": size, "Removed": "none"}
        for name, licence, found, size in (
            ("python", "PSF-2.0", 310, 4.21), ("debian", "various free licences", 220, 6.9),
            ("wikitext", "CC BY-SA 3.0", 90, 1.2),
        )
    ]  # fmt: skip
    return {"tables": {"sources": rows}, "metrics": {"download/documents": 620.0}}


def _write_quality(directory: Path) -> dict[str, Any]:
    removed = [
        _removal("buy now!!! " * 20 + HOSTILE, "spam", 0.98),
        _removal("x = 1\n" * 40, "too much repetition", 0.71),
        _removal("My card is 4111 1111 1111 1111", "pii: card", 3.0),
        _removal("lorem ipsum " * 30, "low quality", 0.12),
    ]
    _documents(directory, {"python": 231, "debian": 171, "wikitext": 84}, removed)
    rows = [
        {"Source": "python", "In": 310, "Kept": 231, "Kept share": 0.745, "Removed": "low quality: 60, spam: 19"},
        {"Source": "debian", "In": 220, "Kept": 171, "Kept share": 0.777, "Removed": "too much repetition: 49"},
    ]
    return {"tables": {"quality funnel": rows}}


def _write_deduplication(directory: Path) -> dict[str, Any]:
    _documents(
        directory, {"python": 205, "debian": 166, "wikitext": 83}, [_removal("same again", "near duplicate", 0.93)]
    )
    return {"metrics": {"dedup/removed_fraction": 0.066}}


def _write_tokens(directory: Path) -> dict[str, Any]:
    (directory / "tokenizer.json").write_text("{}")
    rows = [
        {"Source": "python", "Documents": 205, "Tokens for training": 1_204_331, "Bytes per token": 3.62},
        {"Source": "debian", "Documents": 166, "Tokens for training": 1_810_022, "Bytes per token": 3.88},
    ]  # fmt: skip
    return {
        "metrics": {"tokens/total": 3_166_681.0, "tokens/vocabulary_size": 4096.0, "tokens/bytes_per_token": 3.77},
        "tables": {"tokens": rows},
    }


def _write_training(name: str, start: float, end: float, steps: int, context: int) -> Callable[[Path], dict[str, Any]]:
    def write(directory: Path) -> dict[str, Any]:
        noise = random.Random(name)
        history: list[dict[str, Any]] = [{"step": 0, "tokens": 0, "validation_loss": start + 0.04}]
        timing = []
        for step in range(1, steps + 1):
            loss = end + (start - end) * math.exp(-5 * step / steps) + noise.gauss(0, 0.05)
            rate = 3e-4 * (1 - 0.8 * step / steps)
            row = {"step": step, "tokens": step * BATCH_TOKENS, "loss": loss, "learning_rate": rate}
            if step % 50 == 0:
                row["validation_loss"] = loss + 0.06
            history.append(row)
            timing.append(_timing(step, noise.gauss(60_000, 900), 2.1 + context / 4000 + step / steps / 10))
        (directory / "history.jsonl").write_text("\n".join(map(json.dumps, history)) + '\n{"torn')
        (directory / "timing.jsonl").write_text("\n".join(map(json.dumps, timing)))
        metrics = {"train/tokens": float(steps * BATCH_TOKENS), "train/loss": end, "throughput/mfu": 0.41,
                   "memory/peak_gb": 2.7}  # fmt: skip
        return {
            "config": {"name": name, "context_tokens": context, "batch_tokens": BATCH_TOKENS, "learning_rate": 3e-4},
            "metrics": metrics,
            "statistics": {"incidents": INCIDENTS if name == "scaling" else []},
            "tables": {"top operators": OPERATORS} if name == "scaling" else {},
        }

    return write


BATCH_TOKENS = 8192
INCIDENTS = [
    {"step": 120, "kind": "loss spike", "detail": "loss 9.71, median 3.60", "time": 1.0,
     "action": "back to update 105, batch 119 skipped, learning rate halved"},
    {"step": 240, "kind": "out of memory", "detail": f"rank 0 {HOSTILE}", "action": "micro-batch 8 to 4", "time": 2.0},
]  # fmt: skip
OPERATORS = [
    {"profile": "update 121", "operator": "aten::mm", "calls": 288.0, "own_share": 0.61, "own_ms": 81.2,
     "own_cpu_ms": 81.2, "allocated_mb": 120.4, "gflop": 6.1},
    {"profile": "update 121", "operator": "_ChunkedForm", "calls": 12.0, "own_share": 0.2, "own_ms": 27.0,
     "own_cpu_ms": 27.0, "allocated_mb": 30.5, "gflop": None},
]  # fmt: skip


def _timing(step: int, tokens_per_second: float, peak_gb: float) -> dict[str, float]:
    seconds = BATCH_TOKENS / tokens_per_second
    return {
        "step": step, "seconds": seconds, "wall_seconds": seconds * 1.04, "tokens_per_second": tokens_per_second,
        "mfu": tokens_per_second / 150_000, "memory_gb": peak_gb - 0.2, "peak_gb": peak_gb,
        "host_gb": peak_gb - 0.2, "host_peak_gb": peak_gb,
    }  # fmt: skip


def _write_evaluation(directory: Path) -> dict[str, Any]:
    recall = [
        {"length": length, "depth": depth, "samples": 8, "correct": 4,
         "recall": max(0.0, 1.05 - length / 1100 - 0.4 * abs(depth - 0.8)),
         "recall_low": 0.2, "recall_high": 0.8, "gain_nats": 1.2}
        for length in (128, 256, 512, 1024) for depth in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]  # fmt: skip
    positions = [
        {
            "from": first,
            "to": last,
            "tokens": 900,
            "loss": 4 - 0.2 * index,
            "perplexity": math.exp(4 - 0.2 * index),
        }
        for index, (first, last) in enumerate(
            ((1, 16), (17, 32), (33, 64), (65, 128), (129, 256), (257, 512), (513, 1024))
        )
    ]
    gates = [
        {"metric": "eval/loss", "condition": "finite", "threshold": None, "value": 3.12, "verdict": "passed"},
        {"metric": "eval/bits_per_byte", "condition": "below eval/baseline_unigram_bits_per_byte", "threshold": 4.61,
         "value": 1.872, "verdict": "passed"},
        {"metric": "eval/bits_per_byte", "condition": "below eval/baseline_5gram_bits_per_byte", "threshold": 2.208,
         "value": 1.872, "verdict": "passed"},
    ]  # fmt: skip
    metrics = {
        "eval/bits_per_byte": 1.872, "eval/loss": 3.12, "eval/perplexity": 22.6, "eval/needle/recall": 0.41,
        "eval/needle/chance": 0.1, "eval/baseline_unigram_bits_per_byte": 4.61,
        "eval/baseline_5gram_bits_per_byte": 2.208,
        "eval/baseline_token_unigram_bits_per_byte": 3.02, "eval/baseline_token_5gram_bits_per_byte": 2.114,
        "eval/decode_tokens_per_second": 212.4, "eval/kv_cache_bytes": 1_048_576.0,
    }  # fmt: skip
    tables = {"gates": gates, "needle recall": recall, "perplexity by position": positions,
              "samples": [{"prompt": "The ", "continuation": f"file is read {HOSTILE}"}]}  # fmt: skip
    return {"metrics": metrics, "tables": tables}


def _write_quantized(directory: Path) -> dict[str, Any]:
    rows = [
        {"format": name, "size_mb": size, "perplexity": perplexity, "perplexity_increase_percent": increase, "kl": kl,
         "tokens_per_second": speed, "verdict": verdict, "reason": "within its gate"}
        for name, size, perplexity, increase, kl, speed, verdict in (
            ("original", 13.65, 22.60, 0.0, 0.0, 212.0, "original"),
            ("int8", 3.9, 22.68, 0.35, 0.0021, 388.0, "accepted"),
            ("f16", 6.9, 22.60, 0.0, 0.0, 205.0, "accepted"), ("q8_0", 3.7, 22.61, 0.05, 0.0004, 209.0, "accepted"),
            ("q4_k_m", 2.3, 23.44, 3.7, 0.031, 207.0, "accepted"),
        )
    ]  # fmt: skip
    metrics = {
        f"quant/{row['format']}/{key}": float(row[key])
        for row in rows
        for key in ("size_mb", "perplexity", "tokens_per_second")
    }
    return {"metrics": metrics, "tables": {"formats": rows}}


def _write_registration(directory: Path) -> dict[str, Any]:
    return {"tables": {"bundle": [{"file": "model/model.safetensors", "size_mb": 13.65}]}}


_WRITERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "download": _write_download, "quality": _write_quality, "deduplication": _write_deduplication,
    "tokenization": _write_tokens, "foundation": _write_training("foundation", 8.3, 4.1, 800, 512),
    "scaling": _write_training("scaling", 4.4, 3.5, 350, 1024),
    "long context": _write_training("long context", 3.7, 3.15, 220, 2048),
    "evaluation": _write_evaluation, "quantization": _write_quantized, "registration": _write_registration,
}  # fmt: skip


def _stage(name: str, root: Path, reused: bool) -> StageSummary:
    directory = root / name.replace(" ", "-")
    directory.mkdir()
    fields = _WRITERS[name](directory)
    files = tuple(
        FileEntry(
            path=path.relative_to(directory).as_posix(), size_bytes=path.stat().st_size, checksum=checksum_file(path)
        )
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    )  # fmt: skip
    before = STAGES[max(0, STAGES.index(name) - 1)]
    seconds = _SECONDS[name]
    manifest = Manifest(
        kind=_KINDS[name], fingerprint=f"{STAGES.index(name):x}" * 32, stage=name, stage_version=1,
        inputs={} if name == "download" else {"previous": f"{_KINDS[before]}/{STAGES.index(before):x}" + "0" * 31},
        files=files, cost=StageCost(seconds=seconds, usd=seconds / 3600 * _PER_HOUR), code_version="f72338b0a1c2",
        created_at="2026-03-01T10:00:00+00:00", **({"config": {}} | fields),
    )  # fmt: skip
    spent = 0.3 if reused else seconds
    return StageSummary(
        name=name, title=name.capitalize(), manifest=manifest, directory=directory, reused=reused, seconds=spent,
        usd=spent / 3600 * _PER_HOUR,
    )  # fmt: skip


@pytest.fixture(scope="session")
def summary(tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    """A complete run, three stages reused."""
    root = tmp_path_factory.mktemp("artifacts")
    stages = [_stage(name, root, name in ("download", "quality", "deduplication")) for name in STAGES]
    started = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
    usd = sum(stage.usd for stage in stages)
    by_stage = [
        StageSpend(stage=stage.name, attempts=1 + (stage.name == "foundation"), seconds=stage.seconds, usd=stage.usd)
        for stage in stages
    ]
    return RunSummary(
        flow_run_id="0b9f1c1e-7f2a-4c55-9a51-3c9e6d1f2ab4", run_name="wise-heron", profile="smoke", status="completed",
        started_at=started, finished_at=started + timedelta(seconds=368), code_version="f72338b0a1c2", stages=stages,
        machine=Machine(cores=2, memory_bytes=8_000_000_000, python="3.11.7", platform="Linux-6.1-x86_64"),
        spend=Spend(this_run_usd=usd, total_usd=usd * 2.2, ceiling_usd=0.05, usd_per_hour=_PER_HOUR, by_stage=by_stage,
                    price_note="own machine: electricity (65 W at 0.30 USD/kWh) plus depreciation"),
        links={"Prefect": "http://127.0.0.1:4200/runs/flow-run/0b9f", "MLflow": "http://127.0.0.1:5000/#/experiments/1",
               "hostile": "javascript:alert(1)"},
        samples=[
            TextSample(prompt="def read_file(path):", model="fp32", text='\n    """Read it."""\n    return 1'),
            TextSample(prompt="The ", text=f"package is used to {HOSTILE} and \u202eevil\x07", model="q4_k_m"),
        ],
        registered=RegisteredVersion(name="sam2-smoke", version="3",
                                     aliases=["candidate", "champion"], note="All 3 gates passed."),
    )  # fmt: skip
