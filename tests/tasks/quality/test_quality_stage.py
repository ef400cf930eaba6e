"""The quality stage: same result for any sharding and worker count, after any interruption, and nothing lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.artifacts import Artifact, ArtifactStore, build_stage
from infra.errors import ArtifactCorrupted, PipelineError
from tasks.documents import document_shards, read_table
from tasks.quality import STAGE, QualityConfig
from tasks.quality.judgement import FILTERS

CHILD = """
import sys
from pathlib import Path
from infra.artifacts import ArtifactStore, build_stage
from tasks.quality import STAGE, QualityConfig
if __name__ == "__main__":
    root, fingerprint, workers = sys.argv[1:]
    store = ArtifactStore.open(root, Path(root))
    artifact = store.find("raw_documents", fingerprint)
    build_stage(STAGE, QualityConfig(workers=int(workers)), {"documents": artifact}, store)
"""


def built(store: ArtifactStore, artifact: Artifact, **settings: object) -> Artifact:
    return build_stage(STAGE, QualityConfig(**{"workers": 1, **settings}), {"documents": artifact}, store).artifact


def rows(artifact: Artifact, folder: str) -> list[dict[str, object]]:
    return [row for path in artifact.paths(f"{folder}/") for row in read_table(path).to_pylist()]


def test_every_document_is_kept_or_removed_with_a_reason(store: ArtifactStore, corpus: Callable[..., Artifact]) -> None:
    raw = corpus()
    filtered = built(store, raw)
    kept, removed = rows(filtered, "documents"), rows(filtered, "removed")
    assert sorted(row["id"] for row in [*kept, *removed]) == sorted(row["id"] for row in rows(raw, "documents"))
    assert {"too short", "low quality score"} <= {row["reason"] for row in removed}
    assert filtered.manifest.metrics["quality/kept_fraction"] == len(kept) / (len(kept) + len(removed))
    assert any("<EMAIL>" in row["text"] and "<PHONE>" in row["text"] for row in kept)
    assert not any("@mail.example" in row["text"] for row in kept)
    (funnel,) = filtered.manifest.tables["quality funnel"]
    assert (funnel["In"], funnel["Kept"]) == (len(kept) + len(removed), len(kept))


def test_the_cut_is_exact_and_does_not_depend_on_sharding(
    store: ArtifactStore, corpus: Callable[..., Artifact]
) -> None:
    texts = []
    for shards in (1, 5):
        filtered = built(store, corpus(shards=shards))
        texts.append(sorted(row["text"] for row in rows(filtered, "documents")))
        kept = [row["quality_score"] for row in rows(filtered, "documents")]
        cut = [row["score"] for row in rows(filtered, "removed") if row["reason"] == "low quality score"]
        # The 30% quantile: documents below it are cut, those that share its score stay together.
        assert max(cut) < min(kept)
        share = 0.3 * (len(cut) + len(kept))
        assert len(cut) <= share <= len(cut) + kept.count(min(kept))
    assert texts[0] == texts[1]


def test_worker_count_does_not_change_a_byte(
    store: ArtifactStore, corpus: Callable[..., Artifact], tmp_path: Path
) -> None:
    raw = corpus()
    one = built(store, raw).manifest
    other = ArtifactStore.open(str(tmp_path / "other"), tmp_path / "other-cache")
    three = built(other, raw, workers=3).manifest
    assert one.content_checksum == three.content_checksum


def test_killed_at_random_moments_and_resumed_equals_uninterrupted(
    store: ArtifactStore, corpus: Callable[..., Artifact], tmp_path: Path
) -> None:
    raw = corpus(shards=12, documents=240)
    expected = built(ArtifactStore.open(str(tmp_path / "calm"), tmp_path / "calm"), raw).manifest.content_checksum
    root = tmp_path / "artifacts"
    for kill, workers in enumerate((1, 3)):
        before = markers(root)
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(root), raw.manifest.fingerprint, str(workers)])
        deadline = time.monotonic() + 90
        # Some shards further than before, then at any moment: it is meant to differ from run to run.
        while markers(root) <= before and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(random.random() * 0.1 * (kill + 1))
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert built(store, raw).manifest.content_checksum == expected


def markers(root: Path) -> int:
    """How many shards some round of the stage has finished."""
    return len(list(root.glob("filtered_documents/*/.shards/*/*.json")))


def test_exact_duplicates_are_found_across_shards_and_sources(
    store: ArtifactStore, corpus: Callable[..., Artifact]
) -> None:
    results = []
    for shards in (2, 7):
        filtered = built(store, corpus(shards=shards, copies=9, second_source=True))
        removed = [row for row in rows(filtered, "removed") if row["reason"] == "exact duplicate"]
        kept = [row["text"] for row in rows(filtered, "documents")]
        assert len(removed) == 9
        assert {row["score"] for row in removed} == {2.0}
        assert len(set(kept)) == len(kept)
        results.append(sorted(row["id"] for row in rows(filtered, "documents")))
    assert results[0] == results[1]


def test_moby_dick_stays_and_abuse_goes(store: ArtifactStore, corpus: Callable[..., Artifact]) -> None:
    filtered = built(store, corpus(literature=True), drop_fraction=0.0)
    kept = [row["text"] for row in rows(filtered, "documents")]
    assert any("Sperm Whale" in text and "cock" in text for text in kept)
    (profane,) = [row for row in rows(filtered, "removed") if row["reason"] == "profanity"]
    assert profane["score"] > 0.002


def test_tables_follow_the_filters(store: ArtifactStore, corpus: Callable[..., Artifact]) -> None:
    filtered = built(store, corpus(copies=3, second_source=True))
    tables = filtered.manifest.tables
    for row in tables["documents left after each filter"]:
        left = [row[name] for name in FILTERS]
        assert left == sorted(left, reverse=True)
        assert row["In"] >= left[0]
    assert left[-1] == tables["quality funnel"][-1]["Kept"]
    by_source = {row["Source"]: row for row in tables["languages found"]}
    assert by_source["mine"]["Languages"].startswith("en ")
    assert by_source["mine"]["Threshold"] == 0.9
    assert (filtered.directory / "plots" / "quality_funnel.png").stat().st_size > 5_000


def test_a_source_that_loses_too_much_raises_an_alarm(store: ArtifactStore, corpus: Callable[..., Artifact]) -> None:
    filtered = built(store, corpus(), default_settings={"expected_loss": 0.05})
    (alarm,) = filtered.manifest.tables["quality alarms"]
    assert alarm["Source"] == "mine"
    assert alarm["Mostly"] == "low quality score"
    assert alarm["Filter"].startswith("quality cut")
    assert filtered.manifest.metrics["quality/alarms"] == 1


def test_removing_everything_is_an_error_that_says_where_to_look(
    store: ArtifactStore, corpus: Callable[..., Artifact]
) -> None:
    with pytest.raises(PipelineError, match=r"removed all .* documents.*`removed/`"):
        built(store, corpus(), minimum_characters=900_000)


def test_a_damaged_input_shard_is_named(store: ArtifactStore, corpus: Callable[..., Artifact]) -> None:
    raw = corpus()
    path = document_shards(raw)["mine-00001"]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactCorrupted, match="mine-00001"):
        built(store, raw)


def test_a_rule_set_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sources\.web\.rules: 'poetry'"):
        QualityConfig(sources={"web": {"rules": "poetry"}})
