from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from model import ConfigurationError, ModelConfig, preset


def test_a_pattern_is_tiled_over_the_layers() -> None:
    config = ModelConfig(layer_count=6, pattern=("hgrn2", "attention"))
    assert config.mixer_kinds == ("hgrn2", "attention") * 3


def test_an_explicit_list_wins_over_the_pattern() -> None:
    config = ModelConfig(layer_count=2, layer_kinds=("attention", "hgrn2"))
    assert config.mixer_kinds == ("attention", "hgrn2")


def test_survives_json() -> None:
    config = preset("sam2-5.5b")
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pattern": ("mamba9",)}, "unknown mixer 'mamba9'; available: .*attention.*hgrn2"),
        ({"layer_kinds": ("hgrn2",)}, "layer_kinds lists 1 layers but layer_count is 4"),
        ({"attention_heads": 3}, "attention_heads=3 does not divide width=256: choose one of 1, 2, 4"),
        ({"key_value_heads": 3}, "key_value_heads=3 does not divide attention_heads=4"),
        ({"attention_heads": 256, "key_value_heads": 1}, "odd head size 1"),
        ({"hgrn2_head_dim": 100}, "hgrn2_head_dim=100 does not divide width=256"),
        ({"widht": 256}, "widht"),
        ({"width": 0}, "width"),
    ],
)
def test_impossible_shapes_are_refused_with_the_field_and_the_fix(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig(**fields)


def test_constraints_of_absent_mixers_do_not_apply() -> None:
    ModelConfig(pattern=("attention",), hgrn2_head_dim=100)


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"sam2-5\.5b"):
        preset("gpt-5")


def test_every_field_is_described() -> None:
    assert all(field.description for field in ModelConfig.model_fields.values())
