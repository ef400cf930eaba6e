"""Int8 rows: their error bound, agreement with the float model, and what a damaged file says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from model import CheckpointError, HybridLM, generate, preset
from model.quantization import INT8_WEIGHTS_FILE, load_int8, save_int8
from model.quantization import linear as int8_layers
from model.quantization.linear import DequantizedLinear, int8_linear
from model.quantization.weights import quantize_rows


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request: pytest.FixtureRequest) -> HybridLM:
    torch.manual_seed(0)
    return HybridLM(preset("miniature-256").model_copy(update={"tie_embeddings": request.param})).eval()


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(0, 256, (2, 90), generator=torch.Generator().manual_seed(1))


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 20), columns=st.integers(1, 40), scale=st.floats(1e-6, 1e4), seed=st.integers(0, 99))
def test_every_weight_is_within_half_a_step(rows: int, columns: int, scale: float, seed: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * scale
    weight[0] = 0
    integers, scales = quantize_rows(weight)
    error = (integers.float() * scales[:, None] - weight).abs()
    assert bool((error <= scales[:, None] * 0.501).all())
    assert bool((integers[0] == 0).all())


def test_logits_agree_with_the_float_model(model: HybridLM, tokens: torch.Tensor, tmp_path: Path) -> None:
    save_int8(model, tmp_path)
    quantized = load_int8(tmp_path)
    with torch.inference_mode():
        theirs, ours = (part(tokens).log_softmax(-1) for part in (model, quantized))
    kl = (theirs.exp() * (theirs - ours)).sum(-1).mean()
    assert 0 < float(kl) < 2e-2
    assert generate(quantized, [1, 2, 3], 4)[0]


def test_decays_stay_float_and_the_rest_of_the_projections_do_not(model: HybridLM, tmp_path: Path) -> None:
    save_int8(model, tmp_path)
    stored = load_file(tmp_path / INT8_WEIGHTS_FILE)
    integers = {name for name, tensor in stored.items() if tensor.dtype == torch.int8}
    assert "layers.0.attn.q_proj.weight" in integers
    assert "lm_head.weight" in integers
    assert not any("f_proj" in name or "norm" in name or "conv1d" in name for name in integers)
    for name in ("layers.0.attn.f_proj.weight", "lower_bounds", "layers.0.attn.q_conv1d.weight"):
        assert torch.equal(stored[name], model.state_dict()[name])
    assert stored["embeddings.weight"].dtype == torch.float16
    linears = [name for name, module in load_int8(tmp_path).named_modules() if isinstance(module, nn.Linear)]
    assert linears
    assert all(name.endswith("f_proj") for name in linears)


def test_both_layers_compute_the_same_product(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    weight, hidden = torch.randn(48, 64), torch.randn(3, 5, 64)
    rows, scales = quantize_rows(weight)
    fast = int8_linear(rows, scales)(hidden)
    monkeypatch.setattr(int8_layers, "_ENGINES", ())
    plain = int8_linear(rows, scales)
    assert isinstance(plain, DequantizedLinear)
    exact = hidden @ weight.T
    assert float((plain(hidden) - exact).norm() / exact.norm()) < 0.01
    assert float((fast - exact).norm() / exact.norm()) < 0.03


def test_a_row_gives_the_same_in_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beside rows a thousand times as large, whose range would leave it no digits; and a row of zeros."""
    torch.manual_seed(3)
    weight = torch.randn(48, 64)
    hidden = torch.randn(7, 64) * torch.tensor([1e-3, 1.0, 1e3, 0.0, 1.0, -5.0, 1e-6])[:, None]
    for engines in (int8_layers._ENGINES, ()):
        monkeypatch.setattr(int8_layers, "_ENGINES", engines)
        layer = int8_linear(*quantize_rows(weight))
        together = layer(hidden)
        for index, row in enumerate(hidden):
            error = float((layer(row) - together[index]).norm())
            # Sums of integers are exact; those of floats may be taken in another order.
            assert error <= (0 if engines else 1e-6 * float(together[index].norm()))
        exact = hidden @ weight.T
        assert bool(((together - exact).norm(dim=1) <= 0.04 * exact.norm(dim=1)).all())


def test_it_is_a_good_deal_smaller(model: HybridLM, tmp_path: Path) -> None:
    save_int8(model, tmp_path)
    size = (tmp_path / INT8_WEIGHTS_FILE).stat().st_size
    assert size < 0.45 * 4 * sum(parameter.numel() for parameter in model.parameters())


def test_damaged_files_name_file_and_tensor(model: HybridLM, tmp_path: Path) -> None:
    save_int8(model, tmp_path)
    path = tmp_path / INT8_WEIGHTS_FILE
    stored = load_file(path)
    save_file({name: tensor for name, tensor in stored.items() if name != "layers.1.mlp.up_proj.weight_scale"}, path)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight_scale"):
        load_int8(tmp_path)
    save_file({name: tensor for name, tensor in stored.items() if name != "norm.weight"}, path)
    with pytest.raises(CheckpointError, match=r"missing \['norm\.weight'\]"):
        load_int8(tmp_path)
    save_file(stored | {"layers.0.mlp.up_proj.weight": torch.zeros(3, 3, dtype=torch.int8)}, path)
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.up_proj"):
        load_int8(tmp_path)
    path.write_bytes(b"short")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_int8(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        load_int8(tmp_path)
