"""What formulas can ask of the model package, against counts by hand."""

from __future__ import annotations

import pytest

from model import HybridLM, preset
from tasks.audit import engineering


def test_parameters_are_those_of_the_built_model() -> None:
    built = sum(parameter.numel() for parameter in HybridLM(preset("miniature")).parameters())
    assert engineering.parameters("miniature") == built


def test_a_wider_feed_forward_adds_three_matrices_a_layer() -> None:
    config = preset("miniature")
    wider = engineering.parameters("miniature", feed_forward_width=config.feed_forward_width + 1)
    assert wider - engineering.parameters("miniature") == 3 * config.width * config.layer_count


def test_a_pattern_is_written_as_a_ratio() -> None:
    six_to_one = preset("sam2-5.5b").changed(pattern=(*("hgrn2",) * 6, "attention"))
    assert engineering.attention_layers("sam2-5.5b") == 7
    assert six_to_one.mixer_kinds.count("attention") == 4
    changed = engineering.parameters("sam2-5.5b", pattern="hgrn2 6:1")
    assert changed == pytest.approx(engineering.parameters("sam2-5.5b"), rel=0.03)
    assert changed > engineering.parameters("sam2-5.5b")


def test_a_mixer_alone() -> None:
    width = preset("sam2-5.5b").width
    assert engineering.mixer_parameters("sam2-5.5b", "gated_deltanet") == pytest.approx(6 * width**2, rel=0.01)
    assert engineering.mixer_parameters("sam2-5.5b", "hgrn2") == pytest.approx(4 * width**2, rel=0.01)


def test_flops_are_about_six_a_parameter_and_grow_with_the_context() -> None:
    short, long = (engineering.flops_per_token("sam2-5.5b", context) for context in (4096.0, 102_400.0))
    assert short == pytest.approx(6 * engineering.parameters("sam2-5.5b"), rel=0.03)
    assert 1.4 < long / short < 1.6
    assert engineering.attention_share("sam2-5.5b", 102_400) > 10 * engineering.attention_share("sam2-5.5b", 4096)


def test_the_largest_micro_batch_fits_and_one_more_does_not() -> None:
    rows = engineering.largest_micro_batch("small", 2048, 1, 40)
    assert engineering.gpu_gb("small", 2048, 1, rows, recomputed=1) <= 40
    assert engineering.gpu_gb("small", 2048, 1, rows + 1, recomputed=1) > 40


def test_memory_falls_with_sharding_and_recomputing() -> None:
    whole = engineering.gpu_gb("large", 2048, 1, 4)
    assert engineering.gpu_gb("large", 2048, 8, 4) < whole
    assert engineering.gpu_gb("large", 2048, 1, 4, recomputed=1) < whole
    kept, recomputed = (engineering.activation_gb("large", 2048, 4, recomputed=choice) for choice in (0, 1))
    assert recomputed < kept < whole
    assert engineering.cpu_gb("large", 2048, 8) > 12 * engineering.parameters("large") / 1e9


def test_decoding_reads_two_bytes_a_parameter_shared_by_the_batch() -> None:
    alone = engineering.decode_seconds("small", 1, 1e12)
    assert alone == pytest.approx(2 * engineering.parameters("small") / 1e12)
    assert engineering.decode_seconds("small", 32, 1e12) == pytest.approx(alone / 32)


def test_the_cache_of_attention_layers_counts_keys_and_values() -> None:
    config = preset("sam2-5.5b")
    keys_and_values = 7 * 2 * config.key_value_heads * config.head_dim * 100_000 * 2 / 1e9
    assert engineering.cache_gb("sam2-5.5b", 100_000) == pytest.approx(keys_and_values, rel=0.03)


def test_statistics() -> None:
    # Both by hand: the hypergeometric sum of tables as rare as this one, and the textbook formula with 1.96 and 0.84.
    assert engineering.fisher_p(10, 15, 13, 15) == pytest.approx(0.3898, abs=5e-4)
    rates = 2 / 3, 13 / 15
    expected = (1.96 + 0.8416) ** 2 * (2 / 9 + 26 / 225) / 0.04
    assert engineering.samples_to_tell(*rates) == pytest.approx(expected, rel=1e-3)
    assert engineering.spread(100, 60, 100) == 40
    assert engineering.symbols("aabba", "a") == 3
