"""Architecture `granitehybrid`: every parameter comes back, and what llama.cpp would compute differently is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader

from model import CheckpointError, ConfigurationError, HybridLM, ModelConfig
from model.exports.gguf import GGUFFormat, load_gguf, read_architecture, read_config, save_gguf, tensor_types
from model.exports.gguf.rotary_rows import to_half_split, to_neighbours
from tests.support.trained_models import small_config


def random_model(config: ModelConfig) -> HybridLM:
    """Every parameter away from its usual value, so that none can be forgotten."""
    torch.manual_seed(0)
    model = HybridLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False}, {"mamba2_groups": 2}], ids=str)
def test_every_parameter_comes_back_exactly(changes: dict[str, object], tmp_path: Path) -> None:
    model = random_model(small_config("mamba2").changed(**changes))
    save_gguf(model, tmp_path / "model.gguf", "f32")
    restored = load_gguf(tmp_path / "model.gguf").state_dict()
    assert restored.keys() == model.state_dict().keys()
    assert all(torch.equal(restored[name], values) for name, values in model.state_dict().items())


def test_metadata_is_what_stock_llama_cpp_reads(tmp_path: Path) -> None:
    model = random_model(small_config("mamba2", mamba2_groups=2))
    path = tmp_path / "model.gguf"
    save_gguf(model, path, "f16")
    reader = GGUFReader(path)
    expected = {
        "attention.head_count": 4, "attention.head_count_kv": [2, 0, 0, 2], "attention.scale": 0.25,
        "rope.scaling.finetuned": True, "rope.dimension_count": 16, "ssm.conv_kernel": 4, "ssm.inner_size": 128,
        "ssm.state_size": 32, "ssm.time_step_rank": 4, "ssm.group_count": 2,
    }  # fmt: skip
    for key, value in expected.items():
        field = reader.get_field(f"granitehybrid.{key}")
        assert field is not None and field.contents() == value, key
    assert read_architecture(path) == "granitehybrid"
    assert read_config(path) == model.config


def test_the_file_holds_decay_rates_and_never_quantizes_small_tensors(tmp_path: Path) -> None:
    model = random_model(small_config("mamba2", "miniature-256", mamba2_groups=2))
    path = tmp_path / "model.gguf"
    types = save_gguf(model, path, "q4_k_m")
    assert types == tensor_types(model, GGUFFormat.Q4_K_M)
    exact = {name for name, kind in types.items() if kind is GGMLQuantizationType.F32}
    small = {"attn_norm.weight", "ffn_norm.weight", "ssm_a", "ssm_d", "ssm_dt.bias", "ssm_norm.weight"}
    small |= {"ssm_conv1d.weight", "ssm_conv1d.bias"}
    assert {name.split(".", 2)[2] for name in exact if name.startswith("blk.")} == small
    rates = next(tensor for tensor in GGUFReader(path).tensors if tensor.name == "blk.1.ssm_a")
    heads = model.state_dict()["layers.1.attn.A_log"]
    np.testing.assert_array_equal(rates.data, -heads.exp().numpy()[:, None])


def test_half_split_pairs_become_neighbours_and_back() -> None:
    rows = torch.arange(2 * 6).unsqueeze(1)  # two heads of six channels
    moved = to_neighbours(2)(rows)
    assert moved.flatten().tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert torch.equal(to_half_split(2)(moved), rows)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mamba2_expansion", 1),
        ("feed_forward_layers", "attention_only"),
        ("query_key_norm", True),
        ("layer_kinds", ("mamba2",) * 4),
    ],
)
def test_models_it_would_compute_differently_are_refused(field: str, value: object, tmp_path: Path) -> None:
    model = HybridLM(small_config("mamba2").changed(**{field: value}))
    with pytest.raises(ConfigurationError, match=rf"{field} must (be|have) .*granitehybrid"):
        save_gguf(model, tmp_path / "model.gguf", "f16")
    assert not list(tmp_path.iterdir())


def test_two_kinds_of_recurrent_layer_fit_nowhere(tmp_path: Path) -> None:
    model = HybridLM(small_config("mamba2").changed(layer_kinds=("attention", "mamba2", "hgrn2", "attention")))
    with pytest.raises(ConfigurationError, match="layer_kinds has hgrn2 and mamba2"):
        save_gguf(model, tmp_path / "model.gguf", "f16")


def test_decay_rates_that_contradict_their_logarithms_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    save_gguf(random_model(small_config("mamba2")), path, "f32")
    tensor = next(part for part in GGUFReader(path).tensors if part.name == "blk.2.ssm_a")
    with path.open("r+b") as stream:
        stream.seek(int(tensor.data_offset))
        stream.write(np.full(4, -0.5, np.float32).tobytes())
    with pytest.raises(CheckpointError, match=r"blk\.2\.ssm_a.*contradicts"):
        load_gguf(path)


def test_a_failed_export_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_text("the file before")

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("model.exports.gguf.writer._stored", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_gguf(random_model(small_config("mamba2")), path, "f32")
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"]
    assert path.read_text() == "the file before"
