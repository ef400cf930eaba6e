from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model import PRESETS, HybridLM, cache_size, parameter_count, preset, training_flops_per_token


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("fields", [{}, {"short_convolution": False}, {"pattern": ("attention",)}])
def test_parameters_equal_those_of_the_built_model(name: str, fields: dict[str, object]) -> None:
    config = preset(name).changed(**fields)
    with torch.device("meta"):
        model = HybridLM(config)
    count = parameter_count(config)
    assert count.total == sum(parameter.numel() for parameter in model.parameters())
    assert count.feed_forward == sum(p.numel() for n, p in model.named_parameters() if ".mlp." in n)
    assert count.mixers == sum(p.numel() for n, p in model.named_parameters() if ".attn." in n)


def test_the_long_context_preset_has_the_size_in_its_name() -> None:
    untied = preset("sam2-5.5b")
    tied = untied.changed(tie_embeddings=True)
    assert round(parameter_count(untied).total / 1e9, 2) == 5.64
    assert round(parameter_count(tied).total / 1e9, 2) == 5.43
    assert untied.mixer_kinds.count("attention") == 7


def test_projection_flops_equal_what_torch_counts(miniature: HybridLM) -> None:
    tokens = torch.randint(0, 256, (1, 64))
    with FlopCounterMode(display=False) as counter:
        miniature(tokens).sum().backward()
    counted = counter.get_flop_counts()["Global"][torch.ops.aten.mm]
    flops = training_flops_per_token(miniature.config, 64)
    assert counted == 64 * (sum(flops.mixer_projections.values()) + flops.feed_forward + flops.head)


def test_only_attention_grows_with_the_context() -> None:
    short, long = (training_flops_per_token(preset("sam2-5.5b"), context) for context in (8192, 65_536))
    assert long.mixing["hgrn2"] == short.mixing["hgrn2"]
    assert long.mixing["attention"] / short.mixing["attention"] == pytest.approx(8, rel=1e-3)


@torch.no_grad()
def test_cache_bytes_equal_those_of_a_filled_cache(miniature: HybridLM) -> None:
    cache = miniature.new_cache()
    miniature(torch.randint(0, 256, (1, 300)), cache=cache)
    assert cache_size(miniature.config, 300).total == cache.size_bytes()
