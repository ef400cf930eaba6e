"""The global cut and exact duplicates do not depend on who counted which part."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ArtifactCorrupted
from tasks.quality import exact_duplicates
from tasks.quality.exact_duplicates import HASH_TYPE, find_duplicates, hash_documents, load_array, save_array
from tasks.quality.score_histogram import ScoreHistogram, merged
from tasks.text.batch import TextBatch

LEVELS = st.lists(st.integers(0, 65535) | st.integers(0, 5), min_size=1, max_size=60)


def histogram_of(levels: list[int]) -> ScoreHistogram:
    histogram = ScoreHistogram()
    histogram.add("all", np.array(levels, np.uint16))
    return histogram


@settings(deadline=None)
@given(levels=LEVELS, fraction=st.floats(0, 0.99))
def test_the_threshold_is_the_exact_quantile(levels: list[int], fraction: float) -> None:
    threshold = histogram_of(levels).thresholds(fraction)["all"]
    assert threshold == sorted(levels)[int(fraction * len(levels))]


@settings(deadline=None, max_examples=30)
@given(levels=LEVELS, seed=st.integers(0, 1000), parts=st.integers(1, 7))
def test_any_sharding_merges_to_the_same(levels: list[int], seed: int, parts: int) -> None:
    generator = random.Random(seed)
    shards: list[list[int]] = [[] for _ in range(parts)]
    for level in levels:
        generator.choice(shards).append(level)
    generator.shuffle(shards)
    total = ScoreHistogram()
    for shard in shards:
        total.merge(histogram_of(shard))
    assert np.array_equal(total.counts["all"], histogram_of(levels).counts["all"])


def test_histograms_survive_their_files(tmp_path: Path) -> None:
    first, second = histogram_of([1, 1, 65535]), ScoreHistogram()
    second.add("code", np.array([7], np.uint16))
    paths = {"a": tmp_path / "a.parquet", "b": tmp_path / "b.parquet", "none": tmp_path / "c.parquet"}
    for path, histogram in zip(paths.values(), (first, second, ScoreHistogram()), strict=True):
        histogram.write(path)
    assert merged(paths).thresholds(0.7) == {"all": 65535, "code": 7}


def kept_ids(documents: list[tuple[str, str]], shards: int, directory: Path) -> set[str]:
    """Ids left when the documents, cut into shards, lose their exact duplicates."""
    paths, each = {}, -(-len(documents) // shards)
    for shard in range(shards):
        own = documents[shard * each : (shard + 1) * each]
        ids = pa.chunked_array([pa.array([name for name, _ in own], pa.string())])
        hashed = hash_documents(TextBatch.from_texts([text for _, text in own]), ids, np.arange(len(own)))
        paths[f"s{shard}"] = directory / f"{shards}-{shard}.npy"
        save_array(paths[f"s{shard}"], hashed)
    left = set()
    for shard, rows in enumerate(find_duplicates(paths).values()):
        own = documents[shard * each : (shard + 1) * each]
        gone = set(rows["row"].tolist())
        left |= {name for row, (name, _) in enumerate(own) if row not in gone}
    return left


@pytest.mark.parametrize("per_round", [3, 1 << 22])
def test_the_same_copies_stay_however_the_corpus_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_round: int
) -> None:
    monkeypatch.setattr(exact_duplicates, "_DOCUMENTS_PER_ROUND", per_round)
    generator = random.Random(5)
    documents = [(f"id{number}", generator.choice(["a", "b", "c", f"only {number}"])) for number in range(60)]
    results = []
    for shards in (1, 4, 9):
        results.append(kept_ids(documents, shards, tmp_path))
        generator.shuffle(documents)
    assert results[0] == results[1] == results[2]
    assert len(results[0]) == len({text for _, text in documents})


def test_a_damaged_scratch_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "hashes.npy"
    path.write_bytes(b"\x93NUMPY nothing")
    with pytest.raises(ArtifactCorrupted, match=r"hashes\.npy"):
        load_array(path, HASH_TYPE)
