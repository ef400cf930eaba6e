"""The deduplication stage: duplicates go, the best stay, whatever the workers, shards and interruptions."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from infra.artifacts import Artifact, ArtifactStore, Stage, StageConfig, StageContext, StageResult, build_stage
from tasks.deduplication import STAGE, DeduplicationConfig
from tasks.documents import DOCUMENTS, Document, documents_table, read_table, write_table

CHILD = """
import sys
from pathlib import Path
from infra.artifacts import ArtifactStore, build_stage
from tasks.deduplication import STAGE, DeduplicationConfig
if __name__ == "__main__":
    root, fingerprint = sys.argv[1:]
    store = ArtifactStore.open(root, Path(root))
    artifact = store.find("filtered_documents", fingerprint)
    build_stage(STAGE, DeduplicationConfig(workers=1), {"documents": artifact}, store)
"""


class DuplicatesConfig(StageConfig):
    shards: int = 4
    documents: int = 80


def write_duplicates(context: StageContext[DuplicatesConfig]) -> StageResult:
    """Random texts; every fourth also with other spacing, every fifth also with one word changed."""
    generator = random.Random(1)
    texts = []
    for number in range(context.config.documents):
        words = [f"w{generator.randrange(2000)}" for _ in range(100)]
        texts.append(" ".join(words))
        if number % 4 == 0:
            texts.append("\n".join(words))
        if number % 5 == 0:
            texts.append(" ".join([*words[:50], "changed", *words[51:]]))
    texts += ["too few words", "too few  words", "too few others"]
    for shard in range(context.config.shards):
        rows = [
            Document(text, "mine", str(n), "CC0") for n, text in enumerate(texts) if n % context.config.shards == shard
        ]
        write_table(context.directory / DOCUMENTS / f"mine-{shard:05d}.parquet", documents_table(rows))
    return StageResult(statistics={"carried": {"decontaminated_documents": 7}})


SOURCE = Stage("duplicates", "filtered_documents", 1, DuplicatesConfig, write_duplicates)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path / "artifacts"), tmp_path / "cache")


@pytest.fixture
def corpus(store: ArtifactStore) -> Callable[..., Artifact]:
    return lambda **settings: build_stage(SOURCE, DuplicatesConfig(**settings), {}, store).artifact


def built(store: ArtifactStore, artifact: Artifact, **settings: object) -> Artifact:
    config = DeduplicationConfig(**{"workers": 1, "planted_pairs": 40, **settings})
    return build_stage(STAGE, config, {"documents": artifact}, store).artifact


def rows(artifact: Artifact, folder: str) -> list[dict[str, object]]:
    return [row for path in artifact.paths(f"{folder}/") for row in read_table(path).to_pylist()]


def test_duplicates_go_with_the_id_of_what_stays(store: ArtifactStore, corpus: Callable[..., Artifact]) -> None:
    unique = built(store, corpus())
    kept, removed = rows(unique, "documents"), rows(unique, "removed")
    assert len(kept) == 80 + 2
    reasons = [row["reason"] for row in removed]
    assert (reasons.count("exact duplicate"), reasons.count("near duplicate")) == (20 + 1, 16)
    assert {row["duplicate_of"] for row in removed} <= {row["id"] for row in kept}
    assert all(0.8 <= row["score"] <= 1 for row in removed)
    assert unique.manifest.metrics["dedup/planted_precision"] == 1.0
    assert unique.manifest.metrics["dedup/planted_recall"] > 0.9
    assert unique.manifest.statistics["carried"] == {"decontaminated_documents": 7}
    clusters = [orjson.loads(line) for line in unique.path("clusters.jsonl").read_bytes().splitlines()]
    assert max(cluster["size"] for cluster in clusters) == 3


def test_sharding_does_not_change_what_stays(store: ArtifactStore, corpus: Callable[..., Artifact]) -> None:
    kept = [sorted(row["id"] for row in rows(built(store, corpus(shards=n)), "documents")) for n in (1, 3)]
    assert kept[0] == kept[1]


def test_worker_count_does_not_change_a_byte(
    store: ArtifactStore, corpus: Callable[..., Artifact], tmp_path: Path
) -> None:
    artifact = corpus()
    other = ArtifactStore.open(str(tmp_path / "other"), tmp_path / "other")
    one, two = built(store, artifact).manifest, built(other, artifact, workers=2).manifest
    assert one.content_checksum == two.content_checksum


def test_killed_and_resumed_equals_uninterrupted(
    store: ArtifactStore, corpus: Callable[..., Artifact], tmp_path: Path
) -> None:
    artifact = corpus(shards=10, documents=400)
    calm = ArtifactStore.open(str(tmp_path / "calm"), tmp_path / "calm")
    expected = built(calm, artifact, planted_pairs=300).manifest.content_checksum
    root = tmp_path / "artifacts"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(root), artifact.manifest.fingerprint])
    deadline = time.monotonic() + 60
    while not list(root.glob("unique_documents/*/.shards/*/*.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(random.random() * 0.4)  # the moment is meant to differ from run to run
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert built(store, artifact, planted_pairs=300).manifest.content_checksum == expected


def test_bands_must_fit_the_signature() -> None:
    with pytest.raises(ValueError, match="lower `bands`"):
        DeduplicationConfig(bands=30, rows_per_band=5)
