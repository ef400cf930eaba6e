"""Architecture `qwen35`: every parameter comes back from its joined, gated and doubled form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize

from model import ConfigurationError, HybridLM, ModelConfig
from model.exports.gguf import load_gguf, save_gguf
from tests.support.llama_builds import FAMILY_CHANGES
from tests.support.trained_models import small_config


def config(**changes: object) -> ModelConfig:
    return small_config("gated_deltanet").changed(**FAMILY_CHANGES["gated_deltanet"] | changes)


def random_model(**changes: object) -> HybridLM:
    """Every parameter away from its usual value, so that none can be forgotten."""
    torch.manual_seed(0)
    model = HybridLM(config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False, "gated_deltanet_heads": 3}], ids=str)
def test_every_parameter_comes_back_exactly(changes: dict[str, object], tmp_path: Path) -> None:
    model = random_model(**changes)
    save_gguf(model, tmp_path / "model.gguf", "f32")
    restored = load_gguf(tmp_path / "model.gguf").state_dict()
    assert restored.keys() == model.state_dict().keys()
    assert all(torch.equal(restored[name], values) for name, values in model.state_dict().items())


def test_gates_are_closed_half_and_make_up_for_it(tmp_path: Path) -> None:
    model = random_model()
    save_gguf(model, tmp_path / "model.gguf", "q8_0")
    stored = {
        tensor.name: torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        for tensor in GGUFReader(tmp_path / "model.gguf").tensors
    }
    heads = stored["blk.3.attn_q.weight"].reshape(4, 2, 16, 64)
    assert heads[:, 0].abs().max() > 0 and not heads[:, 1].any()
    output = stored["blk.3.attn_output.weight"]
    original = model.state_dict()["layers.3.attn.o_proj.weight"]
    torch.testing.assert_close(output, 2 * original, atol=0.01, rtol=0.01)


def test_metadata_is_what_stock_llama_cpp_reads(tmp_path: Path) -> None:
    save_gguf(random_model(), tmp_path / "model.gguf", "f16")
    reader = GGUFReader(tmp_path / "model.gguf")
    expected = {
        "attention.head_count": 4, "attention.head_count_kv": 2, "ssm.conv_kernel": 4, "ssm.inner_size": 256,
        "ssm.state_size": 32, "ssm.time_step_rank": 8, "ssm.group_count": 8, "rope.dimension_count": 16,
        "attention.recurrent_layers": [True, True, True, False],
        # Eight frequencies: 0, 3, 6 turn by the first position, 1, 4, 7 by the second, 2, 5 by the third.
        "rope.dimension_sections": [3, 3, 2, 0],
    }  # fmt: skip
    for key, value in expected.items():
        field = reader.get_field(f"qwen35.{key}")
        assert field is not None and field.contents() == value, key


@pytest.mark.parametrize(
    ("field", "value"),
    [("query_key_norm", False), ("gated_deltanet_value_expansion", 2), ("feed_forward_layers", "attention_only")],
)
def test_models_it_would_compute_differently_are_refused(field: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"{field} must be .*qwen35"):
        save_gguf(HybridLM(config(**{field: value})), tmp_path / "model.gguf", "f16")
