from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model import CheckpointError, HybridLM, load, preset, save


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_a_loaded_model_is_the_saved_one(tied: bool, tokens: Tensor, tmp_path: Path) -> None:
    config = preset("miniature").changed(tie_embeddings=tied)
    model = HybridLM(config).eval()
    save(model, tmp_path)
    loaded = load(tmp_path)
    assert loaded.config == config
    assert torch.equal(loaded(tokens), model(tokens))
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied
    assert (loaded.lm_head.weight is loaded.embeddings.weight) is tied
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_loaded_model_can_be_trained_and_saved_over(miniature: HybridLM, tokens: Tensor, tmp_path: Path) -> None:
    save(miniature, tmp_path)
    loaded = load(tmp_path)
    loaded.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())
    with torch.no_grad():
        loaded.norm.weight.mul_(2)
    save(loaded, tmp_path)
    assert torch.equal(load(tmp_path).norm.weight, loaded.norm.weight)


def test_a_failed_save_leaves_the_old_model(
    miniature: HybridLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(miniature, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(*_args: object, **_kwargs: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("model.checkpoints.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(HybridLM(preset("miniature")), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_damage_is_named(miniature: HybridLM, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load(tmp_path)
    save(miniature, tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor for name, tensor in tensors.items() if name != "norm.weight"}, weights)
    with pytest.raises(CheckpointError, match=r"missing norm\.weight"):
        load(tmp_path)
    save_file(tensors | {"norm.weight": torch.ones(3)}, weights)
    with pytest.raises(CheckpointError, match=r"norm\.weight is \[3\], config\.json asks for \[64\]"):
        load(tmp_path)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"width": -1}')
    with pytest.raises(CheckpointError, match="does not describe a model"):
        load(tmp_path)
