"""Int4 groups: their error bound, the kernel against its definition, and whole models of every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from model import CheckpointError, HybridLM, generate
from model.quantization import INT4_WEIGHTS_FILE, load_int4, save_int4
from model.quantization.linear import Int4Linear, JoinedLinear
from model.quantization.weights import GROUP, Int4Groups, quantize_groups
from tests.support.trained_models import FAMILIES, text, trained_model


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 20),
    groups=st.integers(1, 4),
    scale=st.floats(1e-6, 1e4),
    offset=st.floats(-3, 3),
    seed=st.integers(0, 99),
)
def test_every_weight_is_within_a_level(rows: int, groups: int, scale: float, offset: float, seed: int) -> None:
    """Half a level for the rounding, and what bfloat16 loses of the scale (over 8 levels) and of the middle."""
    weight = (torch.randn(rows, groups * GROUP, generator=torch.Generator().manual_seed(seed)) + offset) * scale
    weight[0] = 0
    integers, scales, middles = quantize_groups(weight)
    back = (integers.float().unflatten(1, (-1, GROUP)) - 8) * scales.float()[..., None] + middles.float()[..., None]
    error = (back.flatten(1) - weight).abs().unflatten(1, (-1, GROUP))
    bound = scales.float() * (0.5 + 8 / 256) + middles.float().abs() / 256 + scales.float() / 16
    assert bool((error <= bound[..., None]).all())
    assert bool((back[0] == 0).all())


def test_levels_are_what_is_stored() -> None:
    weight = torch.randn(16, 3 * GROUP, generator=torch.Generator().manual_seed(0))
    groups = Int4Groups.of(weight)
    assert groups.packed.shape == (16, 48)
    assert torch.equal(groups.integers(), quantize_groups(weight)[0])
    assert int(groups.integers().min()) == 0 and int(groups.integers().max()) == 15


@pytest.mark.parametrize("rows", [1, 3, 70])
def test_the_kernel_computes_the_definition(rows: int) -> None:
    torch.manual_seed(0)
    groups = Int4Groups.of(torch.randn(48, 2 * GROUP))
    levels = groups.integers().float().unflatten(1, (-1, GROUP)) - 8
    weight = (levels * groups.scales.float()[..., None] + groups.middles.float()[..., None]).flatten(1)
    hidden = torch.randn(2, rows, 2 * GROUP)
    exact = hidden @ weight.T
    found = groups.layer()(hidden)
    assert found.dtype == hidden.dtype
    assert float((found - exact).norm() / exact.norm()) < 0.006  # bfloat16 has 8 bits
    alone = torch.stack([groups.layer()(row) for row in hidden.flatten(0, 1)])
    assert torch.equal(alone, found.flatten(0, 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_model_keeps_its_distribution(family: str, tmp_path: Path) -> None:
    """KL to the float model in nats a token, beside a loss near 2.5; and text that is read in any split."""
    model = trained_model(family)
    save_int4(model, tmp_path)
    quantized = load_int4(tmp_path)
    tokens = torch.stack([text()[2000:2090], text()[9000:9090]])
    with torch.inference_mode():
        theirs, ours = (part(tokens).log_softmax(-1) for part in (model, quantized))
        cache = quantized.new_cache()
        split = torch.cat([quantized(part, cache=cache) for part in tokens.split([70, 1, 1, 18], dim=1)], dim=1)
    kl = float((theirs.exp() * (theirs - ours)).sum(-1).mean())
    assert 1e-5 < kl < 0.05
    assert float((split.log_softmax(-1) - ours).abs().max()) < 0.3
    assert len(generate(quantized, [1, 2, 3], 6)[0]) == 6


@pytest.mark.parametrize("family", FAMILIES)
def test_decays_stay_exact_and_the_rest_of_the_projections_do_not(family: str, tmp_path: Path) -> None:
    model = trained_model(family)
    save_int4(model, tmp_path)
    stored, weights = load_file(tmp_path / INT4_WEIGHTS_FILE), model.state_dict()
    loaded = dict(load_int4(tmp_path).named_modules())
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if name.endswith(("f_proj", "a_proj", "b_proj")):
            assert torch.equal(stored[f"{name}.weight"], weights[f"{name}.weight"])
        elif name.endswith("in_proj"):
            heads = model.config.mamba2_inner_width // model.config.mamba2_head_dim
            assert torch.equal(stored[f"{name}.weight_exact"], weights[f"{name}.weight"][-heads:])
            joined = loaded[name]
            assert isinstance(joined, JoinedLinear) and isinstance(joined.quantized, Int4Linear)
            hidden = torch.randn(3, 64)
            torch.testing.assert_close(joined(hidden)[:, -heads:], hidden @ weights[f"{name}.weight"][-heads:].T)
        elif name == "lm_head":
            assert stored["lm_head.weight"].dtype == torch.int8
        else:
            assert stored[f"{name}.weight"].dtype == torch.uint8
            assert isinstance(loaded[name], Int4Linear)
    assert not any("norm" in name or "conv1d" in name for name, part in stored.items() if part.dtype != torch.float32)


def test_shapes_the_kernel_cannot_take_are_int8(tmp_path: Path) -> None:
    model = HybridLM(trained_model("hgrn2").config.changed(feed_forward_width=72)).eval()
    save_int4(model, tmp_path)
    stored = load_file(tmp_path / INT4_WEIGHTS_FILE)
    assert stored["layers.0.mlp.up_proj.weight"].dtype == torch.int8  # 72 outputs: not a multiple of 16
    assert stored["layers.0.mlp.down_proj.weight"].dtype == torch.int8  # 72 inputs: not a multiple of 32
    assert stored["layers.0.attn.q_proj.weight"].dtype == torch.uint8
    assert generate(load_int4(tmp_path), [1, 2, 3], 2)[0]


def test_it_is_smaller_than_int8_could_be(tmp_path: Path) -> None:
    model = trained_model("mamba2")
    save_int4(model, tmp_path)
    stored = load_file(tmp_path / INT4_WEIGHTS_FILE)
    name = "layers.1.mlp.up_proj"
    held = sum(stored[name + part].nbytes for part in (".weight", ".weight_scale", ".weight_middle"))
    assert held * 8 == 5 * model.state_dict()[f"{name}.weight"].numel()  # 4 bits and a share of two bfloat16


def test_damaged_files_name_file_and_tensor(tmp_path: Path) -> None:
    save_int4(trained_model("mamba2"), tmp_path)
    path = tmp_path / INT4_WEIGHTS_FILE
    stored = load_file(path)
    save_file({name: part for name, part in stored.items() if name != "layers.1.mlp.up_proj.weight_middle"}, path)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight_middle"):
        load_int4(tmp_path)
    save_file({name: part for name, part in stored.items() if not name.endswith("in_proj.weight_exact")}, path)
    with pytest.raises(CheckpointError, match=r"in_proj\.weight_exact"):
        load_int4(tmp_path)
    save_file(stored | {"layers.0.mlp.up_proj.weight": torch.zeros(3, 3, dtype=torch.uint8)}, path)
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.up_proj"):
        load_int4(tmp_path)
