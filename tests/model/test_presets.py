from __future__ import annotations

import re

import pytest
import torch

from model import PRESETS, ConfigurationError, HybridLM, preset
from model.presets import attention_positions, mamba_slm_layers

#: Sizes the ladder's names stand for; the other names say theirs.
LADDER = {"tiny": 10e6, "small": 100e6, "medium": 500e6, "large": 1e9, "xl": 3e9}


def promised_parameters(name: str) -> float | None:
    match = re.search(r"-([0-9.]+)b", name)
    return float(match[1]) * 1e9 if match else LADDER.get(name)


@pytest.mark.parametrize("name", [name for name in sorted(PRESETS) if promised_parameters(name)])
def test_a_model_has_the_parameters_its_name_says(name: str) -> None:
    with torch.device("meta"):
        model = HybridLM(preset(name))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == pytest.approx(promised_parameters(name), rel=0.03)


@pytest.mark.parametrize("name", [name for name in sorted(PRESETS) if preset(name).width >= 1024])
def test_rows_of_large_models_fit_k_quants(name: str) -> None:
    config = preset(name)
    assert config.width % 256 == 0
    assert config.feed_forward_width % 256 == 0


def test_attention_stands_where_the_24_layer_plan_has_it() -> None:
    assert [position + 1 for position in attention_positions(24)] == [1, 2, 6, 11, 16, 21, 22, 23]


@pytest.mark.parametrize(("layers", "count"), [(24, 8), (32, 11), (40, 14)])
def test_the_placement_scales_to_about_35_percent(layers: int, count: int) -> None:
    positions = attention_positions(layers)
    assert len(positions) == count
    assert positions[0] == 0
    assert positions[-1] == layers - 2
    assert list(positions) == sorted(set(positions))
    assert mamba_slm_layers(layers).count("attention") == count


def test_too_few_layers_for_the_placement_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="layer_count=3 has no room"):
        attention_positions(3)


def test_variants_of_the_long_context_model_have_its_size() -> None:
    kinds = {name: preset(name).mixer_kinds for name in PRESETS if name.startswith("sam2-5.5b")}
    assert kinds["sam2-5.5b"] == (*("hgrn2",) * 3, "attention") * 7
    assert kinds["sam2-5.5b-gdn"] == (*("gated_deltanet",) * 3, "attention") * 7
    assert [layer for layer, kind in enumerate(kinds["sam2-5.5b-5to1"]) if kind == "attention"] == [5, 11, 17, 23]
