"""JSONL in, token shards out: the real stages through the real artifact builder, on one core and on two.

    python benchmarks/text_to_shards.py [--megabytes 220] [--workers 1 2] [--vocabulary 32768]

Each number of workers runs in a process of its own that may use as many cores, on an empty artifact store. The clock
starts before the stages are imported and stops at the manifest of the token shards; CPU time is that of all processes.
Before that, a run on a few megabytes leaves Python's bytecode and the compiled loops in their caches, as any first
run does (PYTHONDONTWRITEBYTECODE is not passed on: with it every process compiles the libraries' sources again).
Mtok/s counts 4.2 bytes of input text a token. All languages are kept: a filter that drops a document spares
the stages after it their work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BYTES_PER_TOKEN = 4.2
STAGES = ("download", "quality", "deduplication", "tokenization")
FILES = 16
WARM_UP_MEGABYTES = 3.0


def write_jsonl(directory: Path, megabytes: float) -> int:
    """The shared corpus as JSONL files; returns the bytes of text in them."""
    import orjson

    from benchmarks.corpus import DEFAULT_MEGABYTES, load_corpus

    directory.mkdir(parents=True)
    table = load_corpus(max(DEFAULT_MEGABYTES, int(megabytes)))
    total = 0
    streams = [(directory / f"part-{number:02d}.jsonl").open("wb") for number in range(FILES)]
    for batch in table.select(["id", "text"]).to_batches(max_chunksize=512):
        for row in batch.to_pylist():
            if total >= megabytes * 1e6:
                break
            size = len(row["text"].encode())
            # The next file takes over after its share, so that all are about as large.
            streams[int(total / (megabytes * 1e6) * FILES)].write(orjson.dumps(row) + b"\n")
            total += size
    for stream in streams:
        stream.close()
    return total


def train_vocabulary(directory: Path, path: Path, size: int) -> None:
    """A tokenizer.json from a tenth of the text (not on the clock)."""
    import orjson

    from tasks.tokenization import TokenizationConfig
    from tasks.tokenization.tokenizer import save_tokenizer, train_tokenizer

    files = sorted(directory.glob("*.jsonl"))[: max(FILES // 10, 1)]
    texts = (orjson.loads(line)["text"] for file in files for line in file.read_bytes().splitlines())
    save_tokenizer(train_tokenizer(texts, TokenizationConfig(vocabulary_size=size)), path)


def run_chain(jsonl: Path, tokenizer: Path, home: Path, workers: int) -> None:
    """Run the four stages and print a line of JSON for each; this process is what is measured."""
    started = time.monotonic()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:workers])
    from tasks.sharded_work import fork_server

    if workers > 1:
        fork_server()  # as the flow does, before it pins the sources
    from infra.artifacts import Artifact, ArtifactStore, build_stage
    from tasks import deduplication, download, quality, tokenization
    from tasks.download.sources import LocalFiles
    from tasks.quality.config import SourceSettings

    configs: dict[str, Any] = {
        "download": download.DownloadConfig(
            sources=(LocalFiles(name="corpus", uri=str(jsonl)),), cache_directory=home / "downloads", workers=workers
        ),
        "quality": quality.QualityConfig(
            default_settings=SourceSettings(rules="documentation", minimum_language_probability=0.0, expected_loss=1.0),
            drop_fraction=0.0,
            workers=workers,
        ),
        "deduplication": deduplication.DeduplicationConfig(workers=workers),
        "tokenization": tokenization.resolve_tokenizer(
            tokenization.TokenizationConfig(tokenizer_path=tokenizer, workers=workers)
        ),
    }
    modules = {"download": download, "quality": quality, "deduplication": deduplication, "tokenization": tokenization}
    store = ArtifactStore.open(str(home / "artifacts"), home / "cache")
    report("imports", started, 0.0, {})
    inputs: dict[str, Artifact] = {}
    for name in STAGES:
        wall, cpu = time.monotonic(), cpu_seconds()
        artifact = build_stage(modules[name].STAGE, configs[name], inputs, store).artifact
        inputs = {"documents": artifact}
        report(name, wall, cpu, artifact.manifest.metrics)
    report("all", started, 0.0, {})
    print(json.dumps({"stage": "checksum", "content": artifact.manifest.content_checksum}), flush=True)


def cpu_seconds() -> float:
    """User and system time of this process, of those it started (the fork server, its workers) and of ended ones."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    times = [process.cpu_times() for process in family]
    return sum(each.user + each.system + each.children_user + each.children_system for each in times)


def report(stage: str, wall: float, cpu: float, metrics: Any) -> None:
    """One line for the parent process."""
    kept = {key: value for key, value in metrics.items() if key.endswith(("/documents", "/kept", "/total"))}
    seconds = {"wall": time.monotonic() - wall, "cpu": cpu_seconds() - cpu}
    print(json.dumps({"stage": stage, **seconds, "metrics": kept}), flush=True)


def measured(jsonl: Path, tokenizer: Path, home: Path, workers: int) -> list[dict[str, Any]]:
    """Run the chain in a fresh process; its report, the last timed entry being the totals."""
    command = [sys.executable, str(Path(__file__)), "--chain", str(jsonl), str(tokenizer), str(home), str(workers)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(tokenizer.parent / "bytecode")
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


def show(rows: list[dict[str, Any]], size_bytes: int, workers: int) -> None:
    """Print one run's profile."""
    tokens = size_bytes / BYTES_PER_TOKEN / 1e6
    print(f"\n{workers} worker(s) on {workers} core(s), {size_bytes / 1e6:.1f} MB = {tokens:.1f} Mtok")
    print(f"{'':16} {'wall s':>8} {'CPU s':>8} {'busy cores':>10} {'Mtok/s/core':>12} {'Mtok/s wall':>12}")
    for row in rows:
        if "wall" in row:
            cpu, wall = max(row["cpu"], 1e-9), row["wall"]
            rates = f"{cpu / wall:10.2f} {tokens / cpu:12.2f} {tokens / wall:12.2f}"
            print(f"{row['stage']:16} {wall:8.2f} {cpu:8.2f} {rates}   {row.get('metrics') or ''}")


def main() -> None:
    """Run, print the profiles and the speed-up."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=float, default=220)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--vocabulary", type=int, default=32768)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        tokenizer = root / "tokenizer.json"
        size = write_jsonl(root / "jsonl", arguments.megabytes)
        write_jsonl(root / "few", min(WARM_UP_MEGABYTES, arguments.megabytes))
        train_vocabulary(root / "jsonl", tokenizer, arguments.vocabulary)
        measured(root / "few", tokenizer, root / "warm-up", 1)
        totals: dict[int, dict[str, Any]] = {}
        checksums = set()
        for workers in arguments.workers:
            rows = measured(root / "jsonl", tokenizer, root / f"with-{workers}", workers)
            show(rows, size, workers)
            totals[workers] = next(row for row in rows if row["stage"] == "all")
            checksums |= {row["content"] for row in rows if row["stage"] == "checksum"}
        first = totals[arguments.workers[0]]
        print()
        for workers, total in totals.items():
            rate = size / BYTES_PER_TOKEN / 1e6 / total["wall"]
            print(
                f"{workers} core(s): {rate:.2f} Mtok/s, {rate / workers:.2f} a core, "
                f"{first['wall'] / total['wall']:.2f}x the first"
            )
        print("token shards the same for every number of workers:", len(checksums) == 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--chain"]:
        run_chain(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
