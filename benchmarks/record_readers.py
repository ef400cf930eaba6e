"""Reading records: our readers against datatrove's and plain loops, and the download stage from JSONL to shards.

    python benchmarks/record_readers.py [--megabytes 220]

One process, one core: CPU time, the median of three passes. MB are 10^6 bytes of document text. A reader's pass ends
with all texts, origins and defects in memory a batch at a time (ours: Arrow columns; the peers: Python objects).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.corpus import load_corpus
from tasks.download.decontamination import EvaluationIndex
from tasks.download.formats import FieldChoice, FilePlace, read_batches
from tasks.download.sources import LocalFiles
from tasks.download.stage import PartUnit, read_part
from tasks.text import TextBatch

PASSES = 3
BYTES_PER_TOKEN = 4.2
#: Evaluation items: the first words of documents that are not measured.
EVALUATION_DOCUMENTS = 2000
EVALUATION_WORDS = 40
SHARD_BYTES = 4 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=220)
    parser.add_argument("--documents", type=Path, help="a Parquet file with columns id and text instead of the corpus")
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    table = pq.read_table(arguments.documents) if arguments.documents else load_corpus(arguments.megabytes)
    table = table.select(["id", "text"])
    held_out = [
        " ".join(text.split()[:EVALUATION_WORDS])
        for text in table.slice(table.num_rows - EVALUATION_DOCUMENTS).column("text").to_pylist()
    ]
    table = table.slice(0, table.num_rows - EVALUATION_DOCUMENTS)
    with tempfile.TemporaryDirectory() as folder:
        compare(table, held_out, Path(folder))


def compare(table: pa.Table, held_out: list[str], folder: Path) -> None:
    """Measure and print everything."""
    batch = TextBatch.from_arrow(table.column("text"))
    megabytes = len(batch.buffer) / 1e6
    lines, columns = folder / "lines" / "a.jsonl", folder / "columns" / "a.parquet"
    write_inputs(table, lines, columns)
    print(f"{table.num_rows} documents, {megabytes:.1f} MB of text, {lines.stat().st_size / 1e6:.1f} MB as JSON lines")
    index = EvaluationIndex.of({"held out": held_out}, 13)
    index.save(folder / "index.npz")
    rows = {
        "JSONL, ours": rate(lambda: ours(lines), megabytes),
        "JSONL, datatrove JsonlReader": rate(lambda: datatrove_lines(lines), megabytes),
        "JSONL, json.loads loop": rate(lambda: plain_loop(lines, json.loads), megabytes),
        "JSONL, orjson.loads loop": rate(lambda: plain_loop(lines, orjson.loads), megabytes),
        "Parquet, ours": rate(lambda: ours(columns), megabytes),
        "Parquet, datatrove ParquetReader": rate(lambda: datatrove_columns(columns), megabytes),
        "Decontamination, 13 words": rate(lambda: index.shared(batch).counts, megabytes),
        "JSONL to document shards (ids, defects, decontamination)": rate(lambda: shards(lines, folder), megabytes),
    }
    for name, value in rows.items():
        print(f"{name:58s} {value:8.1f} MB/s {value / BYTES_PER_TOKEN:7.2f} Mtok/s")
    for ours_name, peer in (
        ("JSONL, ours", "JSONL, datatrove JsonlReader"),
        ("JSONL, ours", "JSONL, json.loads loop"),
        ("Parquet, ours", "Parquet, datatrove ParquetReader"),
    ):
        print(f"{ours_name} / {peer}: {rows[ours_name] / rows[peer]:.1f}x")
    print(f"documents that share 13 words with held-out ones: {int((index.shared(batch).counts > 0).sum())}")


def write_inputs(table: pa.Table, lines: Path, columns: Path) -> None:
    lines.parent.mkdir()
    columns.parent.mkdir()
    with lines.open("wb") as stream:
        for part in table.to_batches(1024):
            for row in part.to_pylist():
                stream.write(orjson.dumps(row) + b"\n")
    pq.write_table(table, columns, compression="zstd", row_group_size=4096)


def rate(work: Callable[[], object], megabytes: float) -> float:
    """MB per second of CPU, the median; the first pass, in which loops are compiled, is not counted."""
    work()
    seconds = []
    for _ in range(PASSES):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return megabytes / statistics.median(seconds)


def ours(path: Path) -> int:
    place = FilePlace(path.name)
    return sum(batch.num_rows for batch in read_batches(path, place, FieldChoice()))


def datatrove_lines(path: Path) -> int:
    from datatrove.pipeline.readers import JsonlReader

    return sum(1 for _ in JsonlReader(str(path.parent), compression=None).run())


def datatrove_columns(path: Path) -> int:
    from datatrove.pipeline.readers import ParquetReader

    return sum(1 for _ in ParquetReader(str(path.parent)).run())


def plain_loop(path: Path, loads: Callable[[bytes], dict[str, str]]) -> int:
    count = 0
    with path.open("rb") as stream:
        for line in stream:
            count += len(loads(line)["text"]) > 0
    return count


def shards(path: Path, folder: Path) -> int:
    """All parts of the file through the stage's own unit of work, into an empty directory."""
    source = LocalFiles(name="bench", uri=str(path))
    with tempfile.TemporaryDirectory(dir=folder) as target:
        directory = Path(target)
        kept = 0
        for number, part in enumerate(source.parts(directory, 16 * SHARD_BYTES)):
            unit = PartUnit(
                f"bench-{number:05d}", source, part, False, directory, directory, SHARD_BYTES, folder / "index.npz"
            )
            kept += read_part(unit).statistics["kept"]
        return kept


if __name__ == "__main__":
    main()
