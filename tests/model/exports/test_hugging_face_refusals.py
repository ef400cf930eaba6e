"""What no Hugging Face layout, or not this model, can represent is refused by the name of the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from model import ConfigurationError, HybridLM, load, load_config
from model.exports.hugging_face import save_hugging_face
from model.quantization import load_int8, save_int8
from tests.support.trained_models import small_config


@pytest.mark.parametrize(
    ("family", "changes", "layout", "message"),
    [
        ("mamba2", {"feed_forward_layers": "attention_only"}, None, "feed_forward_layers='attention_only'"),
        ("mamba2", {"query_key_norm": True}, None, "query_key_norm=True: .* granitemoehybrid"),
        ("hgrn2", {"query_key_norm": True}, None, "query_key_norm=True: .* hgrn2"),
        ("gated_deltanet", {"query_key_norm": True}, "gated_deltanet", "query_key_norm=True: .* gated_deltanet"),
        ("gated_deltanet", {}, "qwen3_5_text", "query_key_norm=False: .* qwen3_5_text"),
        ("hgrn2", {}, "granitemoehybrid", "layer_kinds has hgrn2 layers"),
        ("mamba2", {}, "hgrn2", "layer_kinds has mamba2 layers"),
        ("mamba2", {"layer_kinds": ("hgrn2", "mamba2", "attention", "hgrn2")}, None, "mixes hgrn2 and mamba2"),
        ("mamba2", {}, "llama", "layout='llama' is not a Hugging Face layout we know: choose granitemoehybrid"),
    ],
)
def test_models_without_a_layout(
    family: str, changes: dict[str, Any], layout: str | None, message: str, tmp_path: Path
) -> None:
    model = HybridLM(small_config(family).changed(**changes))
    with pytest.raises(ConfigurationError, match=message):
        save_hugging_face(model, tmp_path / "export", layout=layout)
    assert not (tmp_path / "export").exists()


class _Adapter(nn.Module):
    """Parameter names as LoRA libraries have them."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.Linear(base.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, base.out_features, bias=False)


def test_adapters_and_quantized_layers_are_refused(tmp_path: Path) -> None:
    model = HybridLM(small_config("hgrn2"))
    save_int8(model, tmp_path / "int8")
    with pytest.raises(ConfigurationError, match="export the float model instead of a quantized one"):
        save_hugging_face(load_int8(tmp_path / "int8"), tmp_path / "export")
    model.layers[0].attn.q_proj = _Adapter(model.layers[0].attn.q_proj)
    with pytest.raises(ConfigurationError, match=r"layers\.0\.attn\.q_proj\.base_layer\.weight.*merge LoRA"):
        save_hugging_face(model, tmp_path / "export")


def test_values_beyond_float16_are_refused(tmp_path: Path) -> None:
    model = HybridLM(small_config("mamba2"))
    with torch.no_grad():
        model.norm.weight[3] = 1e5
    with pytest.raises(ConfigurationError, match=r"model\.norm\.weight has a value of 1e\+05, and float16 ends"):
        save_hugging_face(model, tmp_path, precision="float16")
    save_hugging_face(model, tmp_path, precision="bfloat16")
    with pytest.raises(ConfigurationError, match="precision='int4' is unknown"):
        save_hugging_face(model, tmp_path, precision="int4")  # type: ignore[arg-type]


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{}")
    vocabulary = {str(index): index for index in range(400)}
    other = {"version": "1.0", "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "0"}}
    (tmp_path / "other.json").write_text(json.dumps(other))
    model = HybridLM(small_config("hgrn2"))
    with pytest.raises(ConfigurationError, match=r"broken\.json cannot be read"):
        save_hugging_face(model, tmp_path / "export", tmp_path / "broken.json")
    with pytest.raises(ConfigurationError, match="has token id 399, but vocabulary_size is 256"):
        save_hugging_face(model, tmp_path / "export", tmp_path / "other.json")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The `config.json` of one model a layout."""
    configs = {family: small_config(family) for family in (_GRANITE, _HGRN2, _GATED_DELTANET)}
    configs[_QWEN] = small_config(_GATED_DELTANET, query_key_norm=True)
    written = {}
    for family, config in configs.items():
        directory = tmp_path_factory.mktemp(family)
        save_hugging_face(HybridLM(config), directory)
        written[family] = json.loads((directory / "config.json").read_text())
    return written


_ABSENT = object()
_GRANITE, _HGRN2, _GATED_DELTANET, _QWEN = "mamba2", "hgrn2", "gated_deltanet", "qwen"


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        (_GRANITE, {"num_local_experts": 8}),
        (_GRANITE, {"attention_bias": True}),
        (_GRANITE, {"mamba_proj_bias": True}),
        (_GRANITE, {"mamba_conv_bias": False}),
        (_GRANITE, {"mamba_d_conv": 3}),
        (_GRANITE, {"mamba_n_heads": 5}),
        (_GRANITE, {"hidden_act": "gelu"}),
        (_GRANITE, {"time_step_limit": [0.01, 1.0]}),
        (_GRANITE, {"time_step_limit": [0.01, {"__float__": "Infinity"}]}),
        (_GRANITE, {"position_embedding_type": "nope"}),
        (_GRANITE, {"position_embedding_type": None}),
        (_GRANITE, {"head_dim": 32}),
        (_GRANITE, {"layer_types": ["attention", "mamba", "mamba", "sliding_attention"]}),
        (_GRANITE, {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}, "named": "rope_type"}),
        (_GRANITE, {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": None, "named": "rope_type"}),
        (_GRANITE, {"partial_rotary_factor": 0.5}),
        (_GRANITE, {"rms_norm_eps": "small"}),
        (_GRANITE, {"vocab_size": True}),
        (_GRANITE, {"tie_word_embeddings": "yes"}),
        (_GRANITE, {"model_type": "bamba"}),
        (_HGRN2, {"use_lower_bound": False}),
        (_HGRN2, {"elementwise_affine": False}),
        (_HGRN2, {"conv_size": 3}),
        (_HGRN2, {"hidden_act": "powlu"}),
        (_HGRN2, {"attnres_block_size": 2}),
        (_HGRN2, {"attn": {"layers": [3], "num_heads": 4, "window_size": 64}, "named": "window_size"}),
        (_HGRN2, {"attn": {"layers": [3], "num_heads": 4, "qkv_bias": True}, "named": "qkv_bias"}),
        (_HGRN2, {"attn": [{"layers": [2], "num_heads": 4}, {"layers": [3], "num_heads": 2}]}),
        (_GATED_DELTANET, {"use_gate": False}),
        (_GATED_DELTANET, {"use_short_conv": False}),
        (_GATED_DELTANET, {"allow_neg_eigval": True}),
        (_GATED_DELTANET, {"output_gate_activation": "sigmoid"}),
        (_GATED_DELTANET, {"num_v_heads": 4}),
        (_GATED_DELTANET, {"expand_v": 1.5}),
        (_QWEN, {"attention_bias": True}),
        (_QWEN, {"linear_conv_kernel_dim": 2}),
        (_QWEN, {"linear_num_value_heads": 8}),
        (_QWEN, {"linear_value_head_dim": 7}),
        (_QWEN, {"head_dim": 64}),
        (_QWEN, {"num_attention_heads": 5}),
        (_QWEN, {"rope_parameters": None, "partial_rotary_factor": _ABSENT, "named": "partial_rotary_factor"}),
        (_QWEN, {"model_type": "qwen3_5"}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_files_this_model_cannot_represent(
    family: str, fields: dict[str, Any], exported: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    named = fields.get("named", next(iter(fields)))
    file = tmp_path / "config.json"
    file.write_text(json.dumps(exported[family]))
    load_config(tmp_path)
    changed = exported[family] | fields
    file.write_text(json.dumps({name: value for name, value in changed.items() if value is not _ABSENT}))
    with pytest.raises(ConfigurationError, match=rf"\b{named} is "):
        load_config(tmp_path)
    with pytest.raises(ConfigurationError, match=rf"\b{named} is "):
        load(tmp_path)


def test_shapes_our_model_does_not_have_are_told_with_the_file(tmp_path: Path) -> None:
    save_hugging_face(HybridLM(small_config("hgrn2")), tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"expand_ratio": 24}))
    with pytest.raises(ConfigurationError, match=r"config\.json .* hgrn2_head_dim=24 does not divide width=64"):
        load(tmp_path)
