"""Killed at any moment the stage continues, and its files depend neither on kills nor on the number of workers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.artifacts import Artifact, ArtifactStore, build_stage
from infra.errors import SourceError
from tasks.documents import iterate_texts
from tasks.download import STAGE, DownloadConfig, resolve_sources, stage
from tasks.download.decontamination import EvaluationIndex
from tasks.download.formats import FilePlace
from tasks.download.sources import LocalFiles
from tasks.download.sources.file_source import cut_file

SHARD_BYTES = 10_000
BUILD = """
import json, sys
from pathlib import Path
from infra.artifacts import ArtifactStore, build_stage
from tasks.download import STAGE, DownloadConfig, resolve_sources
if __name__ == "__main__":
    settings, root = json.loads(sys.argv[1]), Path(sys.argv[2])
    config = resolve_sources(DownloadConfig(**settings), root / "downloads")
    build_stage(STAGE, config, {}, ArtifactStore.open(str(root / "artifacts"), root / "cache"))
"""


def write_corpus(folder: Path) -> Path:
    """Lines, row groups, packed lines and many small files: several parts of every kind, with some bad records."""
    folder.mkdir(parents=True)
    chance = random.Random(3)
    words = [f"word{number}" for number in range(500)]
    texts = [" ".join(chance.choices(words, k=chance.randint(0, 80))) for _ in range(1200)]
    lines = [orjson.dumps({"text": text}) for text in texts]
    lines[100], lines[300] = b"{broken", b'{"text": "\xff"}'
    (folder / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    pq.write_table(pa.table({"text": texts[:600]}), folder / "b.parquet", row_group_size=60)
    import gzip

    (folder / "c.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines[:500]), mtime=0))
    for number in range(40):
        (folder / f"d{number:02d}.txt").write_text(texts[number + 5])
    return folder


def settings_for(folder: Path, workers: int = 1) -> dict[str, object]:
    sources = [
        {"name": "all", "uri": str(folder), "licence": "CC0-1.0"},
        {"name": "capped", "uri": str(folder), "maximum_bytes": 60_000},
    ]
    return {"sources": sources, "shard_bytes": SHARD_BYTES, "workers": workers}


def build(settings: dict[str, object], root: Path) -> Artifact:
    config = resolve_sources(DownloadConfig(**settings), root / "downloads")  # type: ignore[arg-type]
    return build_stage(STAGE, config, {}, ArtifactStore.open(str(root / "artifacts"), root / "cache")).artifact


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifact]:
    root = tmp_path_factory.mktemp("undisturbed")
    folder = write_corpus(root / "in")
    return folder, build(settings_for(folder), root)


def test_every_record_is_in_one_shard_or_set_aside(undisturbed: tuple[Path, Artifact]) -> None:
    figures = undisturbed[1].manifest.statistics["sources"]["all"]
    assert figures["kept"] + sum(figures["removed"].values()) == 1200 + 600 + 500 + 40
    assert figures["removed"]["malformed JSON line"] == 2
    assert figures["removed"]["invalid UTF-8"] == 2
    assert len(undisturbed[1].paths("documents/all-")) > 40


def test_workers_do_not_change_a_byte(undisturbed: tuple[Path, Artifact], tmp_path: Path) -> None:
    folder, artifact = undisturbed
    assert build(settings_for(folder, 2), tmp_path).manifest.content_checksum == artifact.manifest.content_checksum


def test_kills_do_not_change_a_byte(undisturbed: tuple[Path, Artifact], tmp_path: Path) -> None:
    folder, artifact = undisturbed
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    chance = random.Random()
    killed = 0
    for _ in range(4):
        command = [sys.executable, str(script), json.dumps(settings_for(folder, chance.choice([1, 2]))), str(tmp_path)]
        child = subprocess.Popen(command, cwd=root, env=environment)
        before = len(list(tmp_path.rglob("documents/*.parquet")))
        wanted = before + chance.randint(1, 15)
        deadline = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < deadline:
            if len(list(tmp_path.rglob("documents/*.parquet"))) >= wanted:
                break
            time.sleep(0.01)
        time.sleep(chance.random() * 0.1)
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
            killed += 1
        child.wait()
    assert killed >= 2
    finished = build(settings_for(folder, 1), tmp_path).manifest
    assert finished.content_checksum == artifact.manifest.content_checksum
    assert finished.statistics == artifact.manifest.statistics


def test_a_part_continues_at_its_last_finished_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_corpus(tmp_path / "in")
    index = tmp_path / "index.npz"
    EvaluationIndex.of({}, 13).save(index)
    source = LocalFiles(name="all", uri=str(folder / "c.jsonl.gz"))
    (part,) = source.parts(tmp_path, 16 * SHARD_BYTES)
    unit = stage.PartUnit("all", source, part, True, tmp_path, tmp_path, SHARD_BYTES, index)
    whole = stage.read_part(unit)
    made: list[int] = []
    original = stage._make_shard
    monkeypatch.setattr(stage, "_make_shard", lambda *a: (made.append(a[1]), original(*a))[1])
    assert stage.read_part(unit) == whole
    assert made == []
    whole.files[3].write_bytes(b"damaged")
    assert stage.read_part(unit) == whole
    assert len(made) == 1


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "in")
    path = folder / "a.jsonl"
    source = LocalFiles(name="all", uri=str(path))
    status = path.stat()
    parts = source.parts(tmp_path, 16 * SHARD_BYTES)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # a clock that tells nothing
    list(source.batches(tmp_path, parts[0]))
    with pytest.raises(SourceError, match=r"a\.jsonl' changed while it was read"):
        list(source.batches(tmp_path, parts[-1]))


@pytest.mark.parametrize("name", ["a.jsonl", "b.parquet"])
@pytest.mark.parametrize("part_bytes", [1, 700, 5000, 1 << 30])
def test_parts_of_a_file_are_the_file(tmp_path: Path, name: str, part_bytes: int) -> None:
    folder = write_corpus(tmp_path / "in")
    path = folder / name
    source = LocalFiles(name="all", uri=str(path))
    places = list(cut_file(path, FilePlace(name, size_bytes=path.stat().st_size), part_bytes))
    batches = [batch for place in places for batch in source.batches(tmp_path, replace_part(place))]
    found = [
        (text, origin)
        for batch in batches
        for text, origin in zip(batch.column("text").to_pylist(), batch.column("origin").to_pylist(), strict=True)
    ]
    assert found == [(record.text, record.origin) for record in source.records(tmp_path)]
    assert name == "b.parquet" or sum(place.size_bytes for place in places) == path.stat().st_size


def replace_part(place: FilePlace) -> stage.SourcePart:
    return stage.SourcePart((replace(place),))


def test_progress_tells_amount_rate_and_time_left(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "in")
    messages: list[tuple[float, str]] = []
    config = resolve_sources(DownloadConfig(**settings_for(folder)), tmp_path / "downloads")  # type: ignore[arg-type]
    store = ArtifactStore.open(str(tmp_path / "artifacts"), tmp_path / "cache")
    build_stage(STAGE, config, {}, store, report=lambda fraction, text, _: messages.append((fraction, text)))
    last = [text for _, text in messages if "MB/s" in text][-1]
    assert " of " in last
    assert "left" in last
    assert all(0.0 <= fraction <= 1.0 for fraction, _ in messages)


def test_the_sets_that_a_document_shares_words_with_are_counted(
    tmp_path: Path, download: Callable[..., Artifact]
) -> None:
    first = "one two three four five six seven eight nine ten eleven twelve thirteen"
    second = "red orange yellow green blue indigo violet black white grey brown pink gold silver"
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "a.txt").write_text(first)
    (tmp_path / "eval" / "b.txt").write_text(second)
    documents = [f"x {first} y", f"{second} and {first}", "neither of them", second.upper()]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(orjson.dumps({"text": text}) for text in documents))
    sets = [{"name": name, "uri": str(tmp_path / "eval" / f"{name}.txt")} for name in ("a", "b")]
    artifact = download(
        [{"name": "mine", "uri": str(tmp_path / "in.jsonl")}], decontamination={"evaluation_sets": sets}
    )
    assert list(iterate_texts(artifact)) == ["neither of them"]
    assert artifact.manifest.statistics["carried"]["decontaminated_by_set"] == {"a": 2, "b": 2}
    assert artifact.manifest.metrics["download/decontaminated_documents"] == 3
