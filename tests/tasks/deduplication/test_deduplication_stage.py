"""The deduplication stage: duplicates go, the best stay, whatever the workers, shards and interruptions."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest

from infra.artifacts import Artifact, ArtifactStore, Stage, StageConfig, StageContext, StageResult, build_stage
from infra.errors import ArtifactCorrupted, ConfigurationError
from tasks.deduplication import STAGE, DeduplicationConfig, resolve_references
from tasks.documents import DOCUMENTS, Document, documents_table, read_table, write_table

CHILD = """
import json, sys
from pathlib import Path
from infra.artifacts import ArtifactStore, build_stage
from tasks.deduplication import STAGE, DeduplicationConfig
if __name__ == "__main__":
    root, fingerprint, settings = sys.argv[1:]
    store = ArtifactStore.open(root, Path(root))
    artifact = store.find("filtered_documents", fingerprint)
    build_stage(STAGE, DeduplicationConfig(**json.loads(settings)), {"documents": artifact}, store)
"""
HOSTILE = '<script>alert("1")</script> </div> {{ 7 * 7 }} \u202e\x00 <img src=x onerror=y>'


class DuplicatesConfig(StageConfig):
    shards: int = 4
    documents: int = 80
    seed: int = 1
    templates: int = 0


def write_duplicates(context: StageContext[DuplicatesConfig]) -> StageResult:
    """Random texts; every fourth also with other spacing, every fifth also with one word changed.

    `templates`: texts that differ in two words only, hence in large buckets.
    """
    config = context.config
    generator = random.Random(config.seed)
    texts = []
    for number in range(config.documents):
        words = [f"w{generator.randrange(2000)}" for _ in range(100)]
        texts.append(" ".join(words))
        if number % 4 == 0:
            texts.append("\n".join(words))
        if number % 5 == 0:
            texts.append(" ".join([*words[:50], "changed", *words[51:]]))
    texts += ["too few words", "too few  words", "too few others"]
    page = [f"t{generator.randrange(2000)}" for _ in range(150)]
    for number in range(config.templates):
        edited = list(page)
        for place in generator.sample(range(150), 2):
            edited[place] = f"number{number}"
        texts.append(HOSTILE + " ".join(edited))
    for shard in range(config.shards):
        rows = [
            Document(text, f"source{n % 3}", str(n), "CC0")
            for n, text in enumerate(texts)
            if n % config.shards == shard
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
    config = DeduplicationConfig(**{"workers": 1, "planted_pairs": 20, **settings})
    return build_stage(STAGE, resolve_references(config), {"documents": artifact}, store).artifact


def rows(artifact: Artifact, folder: str) -> list[dict[str, object]]:
    return [row for path in artifact.paths(f"{folder}/") for row in read_table(path).to_pylist()]


def test_duplicates_go_with_the_id_of_what_stays(store: ArtifactStore, corpus: Callable[..., Artifact]) -> None:
    unique = built(store, corpus(), planted_pairs=60)
    kept, removed = rows(unique, "documents"), rows(unique, "removed")
    assert len(kept) == 80 + 2
    reasons = [row["reason"] for row in removed]
    assert (reasons.count("exact duplicate"), reasons.count("near duplicate")) == (20 + 1, 16)
    assert {row["duplicate_of"] for row in removed} <= {row["id"] for row in kept}
    assert all(0.8 <= row["score"] <= 1 for row in removed)
    metrics = unique.manifest.metrics
    assert metrics["dedup/planted_precision"] == 1.0
    assert metrics["dedup/planted_recall"] > 0.9
    assert (metrics["dedup/documents"], metrics["dedup/rows_not_fully_compared"]) == (82, 0)
    assert unique.manifest.statistics["carried"] == {"decontaminated_documents": 7}
    between = unique.manifest.tables["duplicates between sources"]
    assert sum(row["Documents"] for row in between) == len(removed)
    clusters = [orjson.loads(line) for line in unique.path("clusters.jsonl").read_bytes().splitlines()]
    assert max(cluster["size"] for cluster in clusters) == 3


def test_sharding_does_not_change_what_stays(store: ArtifactStore, corpus: Callable[..., Artifact]) -> None:
    made = [built(store, corpus(shards=n, templates=30), small_bucket=8) for n in (1, 3)]
    kept = [sorted(row["id"] for row in rows(artifact, "documents")) for artifact in made]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 83


def test_neither_workers_nor_memory_change_a_byte(
    store: ArtifactStore, corpus: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = corpus(documents=40, templates=90)
    few = {"bands": 6, "planted_pairs": 5}
    other, little = (ArtifactStore.open(str(tmp_path / name), tmp_path / name) for name in ("other", "little"))
    one, two = built(store, artifact, **few).manifest, built(other, artifact, workers=2, **few).manifest
    # As if a worker could hold the keys of 40 rows, and each portion of sets were a few texts.
    monkeypatch.setattr("tasks.deduplication.rounds._KEY_BYTES_A_ROW", (16 << 20) // 40)
    monkeypatch.setattr("tasks.deduplication.rounds._EXACT_BYTES_A_ROW", (16 << 20) // 40)
    monkeypatch.setattr("tasks.deduplication.rounds._SMALLEST_PORTION", 4096)
    monkeypatch.setattr("tasks.deduplication.units._SIDE_SHARE", 4096)
    spilled = built(little, artifact, memory_limit_bytes=16 << 20, **few)
    assert one.content_checksum == two.content_checksum == spilled.manifest.content_checksum
    assert one.metrics["dedup/largest_cluster"] == 90


def test_killed_at_random_moments_and_resumed_equals_uninterrupted(
    store: ArtifactStore, corpus: Callable[..., Artifact], tmp_path: Path
) -> None:
    artifact = corpus(shards=6, documents=200, templates=80)
    calm = ArtifactStore.open(str(tmp_path / "calm"), tmp_path / "calm")
    expected = built(calm, artifact).manifest.content_checksum
    root = tmp_path / "artifacts"
    settings = orjson.dumps({"workers": 1, "planted_pairs": 20}).decode()
    for markers in (1, 7, 13):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(root), artifact.manifest.fingerprint, settings])
        deadline = time.monotonic() + 60
        while (
            len(list(root.glob("unique_documents/*/.shards/*/*.json"))) < markers
            and child.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.002)
        time.sleep(random.random() * 0.1)  # the moment is meant to differ from run to run
        child.kill()
        child.wait()
    assert built(store, artifact).manifest.content_checksum == expected


def test_a_later_run_leaves_out_what_an_earlier_one_has_seen(
    store: ArtifactStore, corpus: Callable[..., Artifact]
) -> None:
    old, new = corpus(documents=60), corpus(documents=100, shards=3)  # the first 60 texts are the same
    before = built(store, old)
    seen = {row["id"]: row["text"] for folder in ("documents", "removed") for row in rows(before, folder)}
    after = built(store, new, reference_indexes=(before.directory,))
    kept, removed = rows(after, "documents"), rows(after, "removed")
    alone = built(store, new)
    assert {row["text"] for row in kept} == {row["text"] for row in rows(alone, "documents")} - set(seen.values())
    assert len(kept) == 40
    ids = {row["id"] for row in rows(before, "documents")} | {row["id"] for row in kept}
    assert {row["duplicate_of"] for row in removed} <= ids
    assert after.manifest.metrics["dedup/duplicates_of_earlier_runs"] == len(seen)
    assert "seen in an earlier run" in after.path("clusters.html").read_text()
    third = built(store, corpus(documents=110), reference_indexes=(before.directory, after.directory))
    assert len(rows(third, "documents")) == 10


def test_what_only_resembles_a_document_that_went_is_seen_too(
    store: ArtifactStore, corpus: Callable[..., Artifact], tmp_path: Path
) -> None:
    """Text C is similar to B only; the earlier run removed B for A. Together they would be one cluster."""
    words = [f"w{n}" for n in range(200)]
    a, b, c = words[:], [*words[:180], *["b"] * 20], [*words[:160], *["c"] * 20, *["b"] * 20]
    longest = [*a, "more"]
    texts = [" ".join(text) for text in (longest, b, c)]

    def shard(chosen: list[str], name: str) -> Artifact:
        def write(context: StageContext[StageConfig]) -> StageResult:
            documents = [Document(text, name, str(n), "CC0") for n, text in enumerate(chosen)]
            write_table(context.directory / DOCUMENTS / f"{name}-00000.parquet", documents_table(documents))
            return StageResult()

        return build_stage(Stage(name, "filtered_documents", 1, StageConfig, write), StageConfig(), {}, store).artifact

    before = built(store, shard(texts[:2], "old"), threshold=0.7)
    assert len(rows(before, "documents")) == 1
    after = built(store, shard(texts[2:], "new"), threshold=0.7, reference_indexes=(before.directory,))
    assert not rows(after, "documents")
    assert [row["duplicate_of"] for row in rows(after, "removed")] == [row["id"] for row in rows(before, "documents")]


def test_references_are_pinned_and_must_fit(store: ArtifactStore, corpus: Callable[..., Artifact]) -> None:
    artifact = corpus(documents=20)
    before = built(store, artifact)
    with pytest.raises(ConfigurationError, match="ngram_words is 5 there and 4 here"):
        built(store, artifact, ngram_words=4, reference_indexes=(before.directory,))
    with pytest.raises(ConfigurationError, match=r"index\.json' cannot be read"):
        built(store, artifact, reference_indexes=(store.working_directory("nowhere", "x"),))
    with pytest.raises(ConfigurationError, match="resolve_references"):
        config = DeduplicationConfig(reference_indexes=(before.directory,))
        build_stage(STAGE, config, {"documents": artifact}, store)
    with pytest.raises(ConfigurationError, match="does not match reference_checksums"):
        built(store, artifact, reference_indexes=(before.directory,), reference_checksums=("xxh3_128:0",))
    states = before.path("index/mine-00000.states.npy")
    states.write_bytes(states.read_bytes()[:-1] + b"\x07")
    with pytest.raises(ArtifactCorrupted, match=r"mine-00000\.states\.npy' of a reference index"):
        built(store, artifact, reference_indexes=(before.directory,))


def test_the_page_escapes_what_texts_contain(store: ArtifactStore, corpus: Callable[..., Artifact]) -> None:
    page = built(store, corpus(documents=4, templates=70)).path("clusters.html").read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert" in page
    assert "{{ 7 * 7 }}" in page
    assert "<mark>number" in page
    assert not {"\u202e", "\x00"} & set(page)


def test_odd_documents_are_handled(store: ArtifactStore, tmp_path: Path) -> None:
    """Empty texts, texts without words, ids that repeat, a shard without documents, an empty score."""

    def write(context: StageContext[StageConfig]) -> StageResult:
        texts = ["", "  ", "...", "!!", "?", "one", "\x00", "漢字" * 3000]
        table = documents_table([Document(text, "odd", "0", "CC0") for text in texts])
        table = table.set_column(0, "id", [["same"] * len(texts)])
        scores = [None, float("nan"), *np.linspace(0, 1, len(texts) - 2).tolist()]
        table = table.append_column("quality_score", [scores])
        write_table(context.directory / DOCUMENTS / "odd-00000.parquet", table)
        write_table(context.directory / DOCUMENTS / "odd-00001.parquet", table.slice(0, 0))
        return StageResult()

    stage = Stage("odd", "filtered_documents", 1, StageConfig, write)
    unique = built(store, build_stage(stage, StageConfig(), {}, store).artifact)
    assert sorted(row["text"] for row in rows(unique, "documents")) == sorted(["\x00", "one", "漢字" * 3000])
    assert len(rows(unique, "removed")) == 5


def test_bands_must_fit_the_signature() -> None:
    with pytest.raises(ValueError, match="lower `bands`"):
        DeduplicationConfig(bands=30, rows_per_band=5)
