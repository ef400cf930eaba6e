"""The .bin/.idx layout round-trips and every damage is named."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import ArtifactCorrupted
from tasks.tokenization.token_shards import (
    ShardIndex,
    TokenDataset,
    TokenShard,
    decode_index,
    open_token_shard,
    shard_files,
    token_dtype,
    write_token_shard,
)

DOCUMENTS = st.lists(st.lists(st.integers(0, 50_000), max_size=30), max_size=20)


@given(st.lists(st.integers(0, 10_000), max_size=50), st.sampled_from([4096, 100_000]))
def test_the_index_round_trips(lengths: list[int], vocabulary: int) -> None:
    index = ShardIndex.of_lengths(np.array(lengths, np.int32), token_dtype(vocabulary))
    decoded = decode_index(index.encode(), Path("x.idx"))
    assert decoded.dtype == index.dtype
    assert decoded.lengths.tolist() == lengths
    assert decoded.offsets.tolist() == index.offsets.tolist()


def test_the_bytes_are_megatrons() -> None:
    data = ShardIndex.of_lengths(np.array([3, 2], np.int32), np.dtype("<u2")).encode()
    assert data[:9] == b"MMIDIDX\x00\x00"
    assert struct.unpack_from("<QBQQ", data, 9) == (1, 8, 2, 3)
    assert np.frombuffer(data, "<i4", 2, 34).tolist() == [3, 2]
    assert np.frombuffer(data, "<i8", 2, 42).tolist() == [0, 6]
    assert np.frombuffer(data, "<i8", 3, 58).tolist() == [0, 1, 2]


@given(st.binary(max_size=120))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ArtifactCorrupted, match=r"x\.idx"):
        decode_index(data, Path("x.idx"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(DOCUMENTS)
def test_documents_come_back(tmp_path: Path, documents: list[list[int]]) -> None:
    write_token_shard(tmp_path / "train-00000", documents, [1] * len(documents), [9] * len(documents), np.dtype("<u2"))
    shard = TokenShard(tmp_path / "train-00000")
    assert [shard.document(number).tolist() for number in range(len(shard))] == documents
    assert shard.token_count == sum(map(len, documents))
    with pytest.raises(IndexError):
        shard.document(len(documents))


def test_a_dataset_numbers_documents_across_shards(tmp_path: Path) -> None:
    write_token_shard(tmp_path / "train-00000", [[1, 2], [3]], [0, 1], [5, 6], np.dtype("<u2"))
    write_token_shard(tmp_path / "train-00001", [[4], [5, 6, 7]], [1, 1], [7, 8], np.dtype("<u2"))
    dataset = TokenDataset([TokenShard(tmp_path / f"train-0000{n}") for n in (0, 1)], ["a", "b"])
    assert [dataset.document(number).tolist() for number in range(4)] == [[1, 2], [3], [4], [5, 6, 7]]
    assert (dataset.lengths.tolist(), dataset.sources.tolist()) == ([2, 1, 1, 3], [0, 1, 1, 1])
    assert dataset.document_bytes.tolist() == [5, 6, 7, 8]
    assert dataset.shard_spans() == [(0, 2), (2, 4)]


@pytest.mark.parametrize("suffix", [".bin", ".idx", ".sources.npy", ".bytes.npy"])
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_damage_is_named(tmp_path: Path, suffix: str, damage: str) -> None:
    paths = write_token_shard(tmp_path / "train-00000", [[1, 2], [3]], [0, 1], [5, 6], np.dtype("<u2"))
    path = next(path for path in paths if path.name.endswith(suffix))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-2])
    else:
        path.unlink()
    with pytest.raises(ArtifactCorrupted, match=f"train-00000{suffix}"):
        shard = TokenShard(tmp_path / "train-00000")
        _ = shard.sources, shard.document_bytes


def test_a_shard_is_written_in_parts_and_not_at_all_on_an_error(tmp_path: Path) -> None:
    whole, parts = tmp_path / "train-00000", tmp_path / "train-00001"
    write_token_shard(whole, [[1, 2, 9], [3, 9], [9]], [0, 1, 0], [5, 6, 0], np.dtype("<u2"))
    with open_token_shard(parts, np.dtype("<u2")) as writer:
        writer.append([np.array([1, 2], np.uint32)], np.array([0]), np.array([5]), end=9)
        writer.append([], np.array([]), np.array([]), end=9)
        writer.append([np.array([3], np.uint32), np.array([], np.uint32)], np.array([1, 0]), np.array([6, 0]), end=9)
    for one, other in zip(shard_files(whole), shard_files(parts), strict=True):
        assert one.read_bytes() == other.read_bytes()
    with pytest.raises(ZeroDivisionError), open_token_shard(tmp_path / "train-00002", np.dtype("<u2")) as writer:
        writer.append([np.array([1], np.uint32)], np.array([0]), np.array([1]))
        raise ZeroDivisionError
    assert not list(tmp_path.glob("*train-00002*"))
    assert not list(tmp_path.glob(".tmp-*"))
