"""Files of a Hugging Face export: shards, replacement, round trips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from model import CheckpointError, HybridLM, ModelConfig, load, save
from model.exports.hugging_face import LAYOUTS, load_hugging_face, save_hugging_face
from model.exports.hugging_face.writing import Precision
from tests.support.trained_models import small_config

_MIXERS = {"granitemoehybrid": "mamba2", "hgrn2": "hgrn2", "gated_deltanet": "gated_deltanet",
           "qwen3_5_text": "gated_deltanet"}  # fmt: skip


def _random_model(config: ModelConfig) -> HybridLM:
    """Every parameter away from its initial value; norms from 0.5 up, where a zero-centred weight is exact."""
    model = HybridLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 2)
            else:
                parameter.normal_()
    return model


@st.composite
def _configs(draw: st.DrawFn) -> tuple[str, ModelConfig]:
    model_type = draw(st.sampled_from(sorted(LAYOUTS)))
    mixer = _MIXERS[model_type]
    heads = draw(st.sampled_from([1, 2, 4]))
    kinds = draw(st.lists(st.sampled_from([mixer, "attention"]), min_size=1, max_size=3))
    return model_type, ModelConfig(
        vocabulary_size=draw(st.integers(1, 40)),
        width=16,
        layer_count=len(kinds) + 1,
        layer_kinds=(*kinds, mixer),
        feed_forward_width=draw(st.integers(1, 24)),
        attention_heads=heads,
        key_value_heads=draw(st.sampled_from([count for count in (1, 2, 4) if heads % count == 0])),
        query_key_norm=model_type == "qwen3_5_text",
        rope_theta=draw(st.sampled_from([10_000.0, 1e6])),
        hgrn2_head_dim=draw(st.sampled_from([4, 16])),
        short_convolution=draw(st.booleans()),
        gated_deltanet_head_dim=draw(st.integers(1, 8)),
        gated_deltanet_heads=draw(st.integers(1, 3)),
        gated_deltanet_value_expansion=draw(st.integers(1, 2)),
        mamba2_head_dim=8,
        mamba2_state_size=draw(st.integers(1, 8)),
        mamba2_expansion=draw(st.integers(1, 2)),
        mamba2_groups=draw(st.sampled_from([1, 2])),
        norm_eps=draw(st.sampled_from([1e-6, 1e-5])),
        tie_embeddings=draw(st.booleans()),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@settings(max_examples=10, deadline=None, derandomize=True)
@given(_configs(), st.sampled_from([500, 5_000, 10**9]))
def test_every_layout_is_read_back_bit_for_bit(folder: Path, described: tuple[str, ModelConfig], shard: int) -> None:
    model_type, config = described
    model = _random_model(config)
    save_hugging_face(model, folder, layout=model_type, shard_bytes=shard)
    read = load_hugging_face(folder)
    mine, theirs = model.state_dict(), read.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    tokens = torch.randint(0, config.vocabulary_size, (1, 9))
    with torch.no_grad():
        # Not to the last bit: sums are split by where in memory a matrix begins.
        torch.testing.assert_close(model(tokens), read(tokens), rtol=1e-3, atol=1e-3)
    save_hugging_face(read, folder, layout=model_type)
    assert load_hugging_face(folder).config == read.config


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_weights_are_stored_in_the_precision_asked_for(precision: Precision, tmp_path: Path) -> None:
    model = HybridLM(small_config("mamba2"))
    save_hugging_face(model, tmp_path, precision=precision)
    stored = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, precision)}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == precision
    rounded = model.layers[0].attn.q_proj.weight.to(getattr(torch, precision))
    assert torch.equal(load(tmp_path).layers[0].attn.q_proj.weight, rounded.float())


def test_shards_have_an_index_and_stay_below_the_limit(tmp_path: Path) -> None:
    model = HybridLM(small_config("hgrn2"))
    save_hugging_face(model, tmp_path, shard_bytes=100_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(tmp_path.glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"model-{number + 1:05d}-of-{len(files):05d}.safetensors" for number in range(len(files))
    ]
    shards = {file.name: load_file(file) for file in files}
    assert {name: file for file, shard in shards.items() for name in shard} == index["weight_map"]
    sizes = [sum(tensor.nbytes for tensor in shard.values()) for shard in shards.values()]
    assert max(sizes) <= 100_000 < sum(sizes) == index["metadata"]["total_size"]


def test_a_new_export_replaces_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    save_hugging_face(HybridLM(small_config("hgrn2")), tmp_path, shard_bytes=100_000)
    (tmp_path / "README.md").write_text("kept")
    model = HybridLM(small_config("mamba2"))
    save_hugging_face(model, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "README.md", "config.json", "generation_config.json", "model.safetensors",
    ]  # fmt: skip
    assert torch.equal(load(tmp_path).embeddings.weight, model.embeddings.weight)


def test_a_failed_export_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_hugging_face(HybridLM(small_config("hgrn2")), tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full_disk(*_args: object, **_kwargs: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("model.exports.hugging_face.tensor_files.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_hugging_face(HybridLM(small_config("mamba2")), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_our_own_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    model = HybridLM(small_config("hgrn2"))
    save(model, tmp_path)
    with pytest.raises(CheckpointError, match=r"export to another\s+directory"):
        save_hugging_face(model, tmp_path)
    assert torch.equal(load(tmp_path).norm.weight, model.norm.weight)


def test_damage_of_an_export_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_hugging_face(tmp_path)
    save_hugging_face(HybridLM(small_config("gated_deltanet", tie_embeddings=True)), tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"}, weights)
    with pytest.raises(CheckpointError, match=r"missing model\.norm\.weight"):
        load(tmp_path)
    save_file(tensors | {"model.norm.weight": torch.ones(3)}, weights)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is \[3\], config\.json asks for \[64\]"):
        load(tmp_path)
    save_file(tensors | {"lm_head.weight": tensors["model.embeddings.weight"].clone()}, weights)
    load(tmp_path)
    save_file(tensors | {"lm_head.weight": tensors["model.embeddings.weight"] + 1}, weights)
    with pytest.raises(CheckpointError, match="tie_word_embeddings is true"):
        load(tmp_path)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        load(tmp_path)


def test_damage_of_shards_is_named(tmp_path: Path) -> None:
    save_hugging_face(HybridLM(small_config("hgrn2")), tmp_path, shard_bytes=100_000)
    index = tmp_path / "model.safetensors.index.json"
    described = json.loads(index.read_text())
    first, second = sorted(set(described["weight_map"].values()))[:2]
    for weight_map, message in (
        (described["weight_map"] | {"model.norm.weight": first}, f"says that {first} holds model.norm.weight"),
        (described["weight_map"] | {"model.norm.weight": "../other.safetensors"}, "not a file beside it"),
        ("files", "must name a file for each tensor"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path)
    index.write_text(json.dumps(described))
    (tmp_path / second).unlink()
    with pytest.raises(CheckpointError, match=f"{second} is missing"):
        load(tmp_path)
    index.write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path)
