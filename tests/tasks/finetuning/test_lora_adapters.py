"""Adapters put on, written, merged and taken out again, on every family of models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn

from infra.errors import ArtifactCorrupted, ConfigurationError
from model import HybridLM, load, save
from tasks.finetuning import LoraConfig
from tasks.finetuning.adapters import (
    add_adapters,
    linear_layers,
    merge,
    save_adapters,
    target_names,
    trainable,
    unmerge,
)
from tests.support.trained_models import FAMILIES, small_config

TOKENS = torch.arange(48).view(2, 24)


@pytest.fixture(params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A base model in `base/` and adapters that change it in `adapter/`."""
    torch.manual_seed(0)
    model = HybridLM(small_config(request.param)).eval()
    save(model, tmp_path / "base")
    wrapper = add_adapters(model, LoraConfig(rank=4, alpha=8), "registration/abc")
    weights = trainable(model)
    for name, parameter in weights.items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    save_adapters(wrapper, weights, tmp_path / "adapter")
    return tmp_path


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    result: torch.Tensor = model.eval()(TOKENS)
    return result


def test_written_adapters_are_peft_s_and_merge_into_the_base(saved: Path) -> None:
    base = logits(load(saved / "base"))
    adapted = logits(PeftModel.from_pretrained(load(saved / "base"), str(saved / "adapter")))
    assert float((adapted - base).abs().max()) > 1e-2
    merged = merge(saved / "base", saved / "adapter")
    torch.testing.assert_close(logits(merged), adapted, rtol=0, atol=1e-4)
    assert merged.state_dict().keys() == load(saved / "base").state_dict().keys()
    config = json.loads((saved / "adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    assert config["base_model_name_or_path"] == "registration/abc"
    assert config["target_modules"] == target_names(merged)


def test_unmerging_gives_the_base_back(saved: Path) -> None:
    save(merge(saved / "base", saved / "adapter"), saved / "merged")
    expected = load(saved / "base").state_dict()
    again = unmerge(load(saved / "merged"), saved / "adapter")
    assert again.state_dict().keys() == expected.keys()
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
    before = (saved / "base/model.safetensors").read_bytes()
    save(load(saved / "base"), saved / "copy")
    assert (saved / "copy/model.safetensors").read_bytes() == before, "merging leaves the base's own files alone"


def test_the_same_adapters_are_the_same_files(saved: Path) -> None:
    model = load(saved / "base")
    weights = dict(
        trainable(PeftModel.from_pretrained(model, str(saved / "adapter"), is_trainable=True).get_base_model())
    )
    wrapper = add_adapters(load(saved / "base"), LoraConfig(rank=4, alpha=8), "registration/abc")
    save_adapters(wrapper, weights, saved / "again")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (saved / "again" / name).read_bytes() == (saved / "adapter" / name).read_bytes()


def test_everything_but_the_adapters_is_frozen_and_nothing_changes_at_first() -> None:
    model = HybridLM(small_config("hgrn2")).eval()
    before = logits(model)
    add_adapters(model, LoraConfig(), "base")
    assert all(".lora_" in name for name in trainable(model))
    assert {name.partition(".lora_")[0] for name in trainable(model)} == {
        name.removesuffix(".base_layer") for name in linear_layers(model) if name.endswith(".base_layer")
    }
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-6)


def test_chosen_targets_must_exist() -> None:
    model = HybridLM(small_config("hgrn2"))
    assert target_names(model, ("up_proj", "down_proj")) == ["down_proj", "up_proj"]
    with pytest.raises(ConfigurationError, match=r"no linear layers called lm_head\..*choose of: .*o_proj"):
        target_names(model, ("o_proj", "lm_head"))


def test_adapters_of_another_model_are_refused(saved: Path, tmp_path: Path) -> None:
    save(HybridLM(small_config("hgrn2", width=128, attention_heads=2)), tmp_path / "other")
    with pytest.raises(ArtifactCorrupted, match="cannot be put on the model"):
        merge(tmp_path / "other", saved / "adapter")
