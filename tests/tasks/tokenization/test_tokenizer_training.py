"""Training: which documents, from what memory, with what said meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
import pytest

from infra.errors import ArtifactCorrupted
from tasks.documents import Document, documents_table, write_table
from tasks.tokenization import TokenizationConfig, training
from tasks.tokenization.encoding import document_hash, document_hashes, text_batches
from tasks.tokenization.tokenizer import train_tokenizer
from tasks.tokenization.training import text_bytes, train_on_sample, training_bound, training_texts

TEXTS = [f"Seite {number}: " + "äöü und mehr Text dieser Art. " * (number % 7) for number in range(900)]


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, Path]:
    paths = {}
    for number in range(3):
        rows = [Document(text, "mine", str(place), "CC0") for place, text in enumerate(TEXTS)][number::3]
        paths[f"mine-{number}"] = tmp_path / f"mine-{number}.parquet"
        write_table(paths[f"mine-{number}"], documents_table(rows))
    return paths


def identities(shards: dict[str, Path]) -> list[str]:
    return [name for path in shards.values() for name in pq.ParquetFile(path).read(["id"])["id"].to_pylist()]


def test_bytes_are_counted_without_reading_strings(shards: dict[str, Path]) -> None:
    assert text_bytes(shards) == sum(len(text.encode()) for text in TEXTS)


def test_the_sample_is_the_documents_with_the_highest_hashes(shards: dict[str, Path]) -> None:
    names = identities(shards)
    hashes = document_hashes(pa.array(names))
    assert hashes.tolist() == [document_hash(name) for name in names]
    wanted = text_bytes(shards) // 4
    bound = training_bound(shards, hashes, wanted)
    texts = list(training_texts(shards, bound))
    assert len(texts) == int((hashes >= np.uint64(bound)).sum())
    assert 0.7 * wanted < sum(len(text.encode()) for text in texts) < 1.3 * wanted
    assert training_bound(shards, hashes, 1 << 40) == 0
    assert sorted(training_texts(shards, 0)) == sorted(TEXTS)


def test_training_with_progress_is_plain_training(shards: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_POLL_SECONDS", 0.001)
    config = TokenizationConfig(vocabulary_size=600, training_sample_bytes=text_bytes(shards))
    said: list[tuple[float, str]] = []
    trained = train_on_sample(shards, 0, config, lambda share, message: said.append((share, message)))
    assert trained.to_str() == train_tokenizer(training_texts(shards, 0), config).to_str()
    assert all(0 <= share < 1 for share, _ in said)
    assert all("s left" in message for _, message in said)
    assert said


def test_a_cancelled_training_ends_at_once(shards: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_POLL_SECONDS", 0.01)
    ended: list[int] = []

    def slow(texts: Iterable[str], config: TokenizationConfig) -> None:
        count = 0
        for _ in texts:
            count += 1
            time.sleep(0.01)
        ended.append(count)

    monkeypatch.setattr(training, "train_tokenizer", slow)

    def cancel(share: float, message: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_on_sample(shards, 0, TokenizationConfig(), cancel)
    deadline = time.monotonic() + 30
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended[0] < len(TEXTS)


def test_texts_come_in_bounded_batches(shards: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.tokenization.encoding._BATCH_BYTES", 4096)
    path = shards["mine-0"]
    batches = list(text_batches(path))
    assert len(batches) > 5
    assert [start for start, _ in batches] == np.cumsum([0, *(len(batch) for _, batch in batches)])[:-1].tolist()
    assert [text for _, batch in batches for text in batch.texts()] == TEXTS[0::3]


@pytest.mark.parametrize("damage", ["truncated", "not UTF-8"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "mine-00000.parquet"
    if damage == "truncated":
        write_table(path, documents_table([Document("a text", "mine", "0", "CC0")]))
        path.write_bytes(path.read_bytes()[:-20])
    else:
        bytes_column = pa.array([b"fine", b"\xff\xfe broken"])
        text = pa.StringArray.from_buffers(2, *bytes_column.buffers()[1:])
        pq.write_table(pa.table({"id": ["a", "b"], "text": text}), path)
    with pytest.raises(ArtifactCorrupted, match=r"mine-00000\.parquet"):
        list(text_batches(path))
