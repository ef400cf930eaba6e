from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model import Cache, CacheError, HybridLM


@pytest.fixture
def filled(miniature: HybridLM, tokens: Tensor) -> Cache:
    cache = miniature.new_cache()
    with torch.no_grad():
        miniature(tokens, cache=cache)
    return cache


@torch.no_grad()
def test_a_restored_cache_continues_as_if_nothing_happened(miniature: HybridLM, tokens: Tensor, filled: Cache) -> None:
    snapshot = filled.clone()
    expected = miniature(tokens[:, :5], cache=filled)
    miniature(tokens[:, 5:40], cache=filled)
    filled.restore(snapshot)
    assert filled.length == tokens.shape[1]
    torch.testing.assert_close(miniature(tokens[:, :5], cache=filled), expected)
    torch.testing.assert_close(miniature(tokens[:, :5], cache=snapshot), expected)


@torch.no_grad()
def test_a_saved_cache_continues_in_another_process(
    miniature: HybridLM, tokens: Tensor, filled: Cache, tmp_path: Path
) -> None:
    filled.save(tmp_path / "cache.safetensors")
    loaded = Cache.load(tmp_path / "cache.safetensors", miniature.config)
    assert loaded.size_bytes() == filled.size_bytes()
    torch.testing.assert_close(miniature(tokens[:, :5], cache=loaded), miniature(tokens[:, :5], cache=filled))
    assert [path.name for path in tmp_path.iterdir()] == ["cache.safetensors"]


def test_a_file_that_is_no_cache_is_named(miniature: HybridLM, tmp_path: Path) -> None:
    path = tmp_path / "cache.safetensors"
    path.write_bytes(b"nonsense")
    with pytest.raises(CacheError, match=r"cache\.safetensors is not a saved cache"):
        Cache.load(path, miniature.config)
