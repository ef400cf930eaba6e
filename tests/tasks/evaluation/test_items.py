"""Results item by item: what is written is read back, and a damaged file is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import ArtifactCorrupted
from tasks.evaluation.items import ItemScores, item_key, read_items, write_items


def scores(task: str = "piqa", values: tuple[float, ...] = (1, 0, 1)) -> ItemScores:
    keys = tuple(item_key(task, str(number)) for number in range(len(values)))
    return ItemScores(task, "accuracy", True, keys, np.array(values, float), np.ones(len(values)))


def bits() -> ItemScores:
    keys = (item_key("a document"), item_key("another \ud800"))
    return ItemScores("held_out", "bits_per_byte", False, keys, np.array([10.5, 21.0]), np.array([4.0, 10.0]))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_items(tmp_path / "items.parquet", [scores(), bits()])
    accuracy, held_out = read_items(tmp_path / "items.parquet")
    assert (accuracy.task, accuracy.metric, accuracy.higher_is_better) == ("piqa", "accuracy", True)
    assert accuracy.items == scores().items and accuracy.values.tolist() == [1, 0, 1]
    assert held_out.name == "held_out/bits_per_byte" and not held_out.higher_is_better
    assert held_out.score == pytest.approx(31.5 / 14)


def test_the_same_scores_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_items(tmp_path / name, [scores(), bits()])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_no_metrics_is_a_file_too(tmp_path: Path) -> None:
    write_items(tmp_path / "items.parquet", [])
    assert read_items(tmp_path / "items.parquet") == []


def test_a_key_knows_where_each_text_ends() -> None:
    assert item_key("ab", "c") != item_key("a", "bc") != item_key("abc")
    assert item_key("ab", "c") == item_key("ab", "c") and len(item_key("x")) == 16


@pytest.mark.parametrize("keep", [0, 40, -20])
def test_a_damaged_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "items.parquet"
    write_items(path, [scores()])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactCorrupted, match=r"items\.parquet' cannot be read"):
        read_items(path)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    write_items(path, [scores(values=tuple(float(number) for number in range(200)))])
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactCorrupted, match=r"items\.parquet' cannot be read"):
        read_items(path)


def test_another_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"task": ["a"], "value": [1.0]}), tmp_path / "items.parquet")
    with pytest.raises(ArtifactCorrupted, match="has no column metric, higher_is_better, item, weight"):
        read_items(tmp_path / "items.parquet")


def test_parts_must_fit_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="piqa/accuracy: 2 items"):
        ItemScores("piqa", "accuracy", True, ("a", "b"), np.ones(3), np.ones(2))
    with pytest.raises(ValueError, match="weight is not a number above 0"):
        ItemScores("piqa", "accuracy", True, ("a",), np.ones(1), np.zeros(1))
    with pytest.raises(ValueError, match="given twice"):
        write_items(tmp_path / "items.parquet", [scores(), scores()])
