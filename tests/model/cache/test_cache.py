from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model import Cache, CacheError, HybridLM, SnapshotPolicy, cache_size, prefill, preset
from model.cache import NO_SNAPSHOTS
from tests.support.trained_models import small_config

PromptOf = Callable[[int, int], list[int]]
LENGTHS = (60, 7, 33)


@pytest.fixture
def filled(trained: HybridLM, prompt_of: PromptOf) -> Cache:
    """Three rows of different lengths."""
    cache = trained.new_cache(SnapshotPolicy(every_tokens=16, limit=4))
    prefill(trained, [prompt_of(300 * row, length) for row, length in enumerate(LENGTHS)], cache, segment_tokens=10)
    return cache


def contents(cache: Cache, row: int) -> dict[str, Tensor]:
    """All a row holds, cut to its length."""
    length = cache.lengths[row]
    return {
        f"{index}.{name}": tensor[row, :, :length] if name in ("keys", "values") else tensor[row]
        for index, layer in enumerate(cache.layers)
        for name, tensor in layer.items()
    }


def assert_identical(one: Cache, other: Cache, rows: Sequence[tuple[int, int]]) -> None:
    """Byte for byte."""
    for left, right in rows:
        assert one.tokens(left) == other.tokens(right)
        first, second = contents(one, left), contents(other, right)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


def next_logits(model: HybridLM, cache: Cache, count: int = 5) -> Tensor:
    """After the same few tokens in every row, which are added to the cache."""
    return prefill(model, torch.arange(40, 40 + count).expand(max(1, cache.batch), -1), cache)


def test_a_restored_cache_continues_as_if_nothing_happened(trained: HybridLM, filled: Cache) -> None:
    snapshot = filled.clone()
    expected = next_logits(trained, filled)
    next_logits(trained, filled, 30)
    filled.restore(snapshot)
    assert filled.lengths == list(LENGTHS)
    assert torch.equal(next_logits(trained, filled), expected)
    assert torch.equal(next_logits(trained, snapshot), expected)


def test_selected_and_joined_rows_are_the_rows(trained: HybridLM, filled: Cache) -> None:
    shuffled = Cache.concatenate([filled.select([2, 2]), filled.select([0]), filled.select([1])])
    assert shuffled.lengths == [33, 33, 60, 7]
    assert_identical(shuffled, filled, [(0, 2), (1, 2), (2, 0), (3, 1)])
    expected = next_logits(trained, filled.clone())
    torch.testing.assert_close(next_logits(trained, shuffled), expected[[2, 2, 0, 1]], atol=1e-5, rtol=1e-4)
    # Neither shares memory with what it came from.
    assert filled.lengths == list(LENGTHS)
    torch.testing.assert_close(next_logits(trained, filled), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("wanted", [59, 41, 40, 12, 0])
def test_a_trimmed_cache_never_read_the_rest(trained: HybridLM, prompt_of: PromptOf, wanted: int) -> None:
    """Copies of the states lie at 20, 40 (first segment ends after multiples of 16) and 60."""
    policy = SnapshotPolicy(every_tokens=16, limit=4)
    cache, short = trained.new_cache(policy), trained.new_cache(policy)
    prefill(trained, prompt_of(0, 60), cache, segment_tokens=20)
    assert [snapshot.length for snapshot in cache.snapshots[0]] == [20, 40, 60]
    (missing,) = cache.trim(wanted)
    reached = wanted // 20 * 20
    assert (missing, cache.lengths) == (wanted - reached, [reached])
    if reached:
        prefill(trained, prompt_of(0, reached), short, segment_tokens=20)
        assert_identical(cache, short, [(0, 0)])
    assert [snapshot.length for snapshot in cache.snapshots[0]] == [length for length in (20, 40) if length <= wanted]
    assert torch.equal(next_logits(trained, cache, 20), next_logits(trained, short, 20))
    assert_identical(cache, short, [(0, 0)])


def test_rows_are_trimmed_each_to_its_own_length(trained: HybridLM, filled: Cache) -> None:
    untouched = filled.clone()
    assert [[snapshot.length for snapshot in row] for row in filled.snapshots] == [[17, 33, 53, 60], [7], [17, 33]]
    assert filled.trim([55, 7, 20]) == [2, 0, 3]
    assert filled.lengths == [53, 7, 17]
    assert_identical(filled, untouched, [(1, 1)])
    torch.testing.assert_close(next_logits(trained, filled)[1], next_logits(trained, untouched)[1])


def test_attention_alone_is_cut_anywhere(prompt_of: PromptOf) -> None:
    model = HybridLM(preset("miniature").changed(pattern=("attention",))).eval()
    cache, short = model.new_cache(), model.new_cache()
    prefill(model, prompt_of(0, 60), cache)
    prefill(model, prompt_of(0, 31), short)
    assert cache.trim(31) == [0]
    torch.testing.assert_close(next_logits(model, cache), next_logits(model, short), atol=1e-5, rtol=1e-5)


def test_without_snapshots_only_the_start_can_be_returned_to(trained: HybridLM, prompt_of: PromptOf) -> None:
    cache = trained.new_cache(NO_SNAPSHOTS)
    prefill(trained, prompt_of(0, 60), cache, segment_tokens=20)
    assert cache.trim(60) == [0] and cache.lengths == [60]
    assert cache.trim(50) == [50] and cache.lengths == [0]


@pytest.mark.parametrize("wanted", [61, -1, [1, 2], [61]])
def test_lengths_that_are_not_there_are_refused(
    trained: HybridLM, prompt_of: PromptOf, wanted: int | list[int]
) -> None:
    cache = trained.new_cache()
    prefill(trained, prompt_of(0, 60), cache)
    with pytest.raises(CacheError, match=r"has seen 60 tokens and cannot be cut|2 lengths for 1 sequences"):
        cache.trim(wanted)


def test_a_saved_cache_continues_in_another_process(trained: HybridLM, filled: Cache, tmp_path: Path) -> None:
    path = tmp_path / "cache.safetensors"
    doubled = filled.select([0, 1, 2, 0])  # rows that share their snapshots
    doubled.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["cache.safetensors"]
    loaded = Cache.load(path, trained.config)
    assert_identical(loaded, doubled, [(row, row) for row in range(4)])
    assert loaded.sizes().snapshots == doubled.sizes().snapshots
    assert loaded.trim([44, 7, 33, 20]) == doubled.trim([44, 7, 33, 20])
    assert torch.equal(next_logits(trained, loaded), next_logits(trained, doubled))
    doubled.save(path)
    written = path.read_bytes()
    Cache.load(path, trained.config).save(path)
    assert path.read_bytes() == written


def test_files_of_other_models_and_other_files_are_refused(miniature: HybridLM, tmp_path: Path) -> None:
    path = tmp_path / "cache.safetensors"
    cache = miniature.new_cache()
    prefill(miniature, [1, 2, 3], cache)
    cache.save(path)
    other = miniature.config.changed(key_value_heads=4)
    with pytest.raises(CacheError, match=r"cache\.safetensors was filled by another model \(key_value_heads 2, here 4"):
        Cache.load(path, other)
    # What does not change the contents does not matter.
    Cache.load(path, miniature.config.changed(maximum_context=99, linear_initializer_scale=2.0))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CacheError, match=r"cache\.safetensors is not a saved cache"):
        Cache.load(path, miniature.config)
    with pytest.raises(CacheError, match=r"absent is not a saved cache"):
        Cache.load(tmp_path / "absent", miniature.config)


def test_a_failed_save_leaves_the_old_file(
    miniature: HybridLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache.safetensors"
    cache = miniature.new_cache()
    prefill(miniature, [1, 2, 3], cache)
    cache.save(path)
    before = path.read_bytes()

    def full(*_arguments: object, **_options: object) -> None:
        path.with_name(f"{path.name}.half").touch()
        raise OSError("disk full")

    monkeypatch.setattr("model.cache.files.save_file", full)
    with pytest.raises(OSError, match="disk full"):
        cache.save(path)
    assert path.read_bytes() == before


def test_sizes_are_those_of_the_configuration(trained: HybridLM, filled: Cache) -> None:
    sizes = filled.sizes()
    expected = [cache_size(trained.config, length) for length in LENGTHS]
    assert sizes.keys_and_values == sum(one.keys_and_values for one in expected)
    assert sizes.states == sum(one.states for one in expected)
    assert filled.size_bytes() == sum(one.total for one in expected)
    # A snapshot is a row's states: four of the first row, one of the second, two of the third.
    assert sizes.snapshots == 7 * expected[0].states
    held = sum(tensor.nbytes for layer in filled.layers for tensor in layer.values())
    assert sizes.total == held + sizes.snapshots


def test_half_precision_halves_keys_and_values_and_keeps_states(trained: HybridLM, filled: Cache) -> None:
    expected = next_logits(trained, filled.clone())
    before = filled.sizes()
    filled.to(dtype=torch.bfloat16)
    assert filled.sizes().keys_and_values * 2 == before.keys_and_values
    for layer in filled.layers:
        assert all((tensor.dtype == torch.float32) == (name == "state") for name, tensor in layer.items())
    logits = next_logits(trained, filled)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=0.15, rtol=0.1)
    assert filled.trim(0) == [0, 0, 0]


def test_caches_that_do_not_fit_are_not_joined(miniature: HybridLM) -> None:
    cache = miniature.new_cache()
    prefill(miniature, [1, 2, 3], cache)
    with pytest.raises(CacheError, match="seen no tokens"):
        Cache.concatenate([cache, miniature.new_cache()])
    with pytest.raises(CacheError, match="different dtypes"):
        Cache.concatenate([cache, cache.clone().to(dtype=torch.float16)])
    with pytest.raises(CacheError, match=r"different models cannot be joined \(.*mixer_kinds"):
        Cache.concatenate([cache, Cache(small_config("mamba2"))])


def test_a_cache_of_another_model_or_batch_is_not_continued(miniature: HybridLM) -> None:
    cache = miniature.new_cache()
    prefill(miniature, [[1, 2, 3]] * 2, cache)
    with pytest.raises(CacheError, match="holds 2 sequences, the call has 1"):
        prefill(miniature, [1], cache)
    with pytest.raises(CacheError, match="made for another model"):
        prefill(HybridLM(small_config("mamba2")), [1], cache)
