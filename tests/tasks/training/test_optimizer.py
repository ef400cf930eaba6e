"""Muon beside AdamW: each parameter by the right one, exactly as torch's own, and continued exactly from its state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.optim import AdamW, Muon

from model import HybridLM, preset
from tasks.training.optimizer import MuonWithAdamW, is_hidden_matrix, moment_keys

SETTINGS = {"betas": (0.9, 0.95), "epsilon": 1e-8, "weight_decay": 0.1}


def make() -> tuple[HybridLM, MuonWithAdamW]:
    torch.manual_seed(0)
    model = HybridLM(preset("miniature"))
    return model, MuonWithAdamW(model, **SETTINGS)


def give_gradients(model: HybridLM, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def step(model: HybridLM, optimizer: MuonWithAdamW, seed: int) -> None:
    give_gradients(model, seed)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    optimizer.step()


def test_every_parameter_has_exactly_one_optimizer() -> None:
    model, optimizer = make()
    updated = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(updated) == sorted(id(parameter) for parameter in model.parameters())
    hidden = {name for name, parameter in model.named_parameters() if is_hidden_matrix(name, parameter)}
    assert "layers.0.attn.q_proj.weight" in hidden
    assert "embeddings.weight" not in hidden
    assert not any("norm" in name or "conv1d" in name or "lower_bounds" in name for name in hidden)


def test_updates_equal_torchs_own_optimizers() -> None:
    model, optimizer = make()
    other = copy.deepcopy(model)
    named = dict(other.named_parameters())
    hidden = [p for name, p in named.items() if is_hidden_matrix(name, p)]
    rest = [p for name, p in named.items() if not is_hidden_matrix(name, p)]
    muon = Muon(hidden, lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    tables, vectors = [p for p in rest if p.dim() >= 2], [p for p in rest if p.dim() < 2]
    groups = [{"params": tables, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    adamw = AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    for seed in range(3):
        step(model, optimizer, seed)
        give_gradients(other, seed)
        muon.step()
        adamw.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, named[name]), name


def test_state_restored_by_name_continues_exactly() -> None:
    model, optimizer = make()
    for seed in range(2):
        step(model, optimizer, seed)
    other, resumed = make()
    other.load_state_dict(model.state_dict())
    for (name, parameter), source in zip(other.named_parameters(), model.parameters(), strict=True):
        keys = moment_keys("muon", name, parameter)
        assert set(keys) <= set(optimizer.state[source])
        moments = {key: optimizer.state[source][key].clone() for key in keys}
        resumed.state[parameter] = {"step": torch.tensor(2.0), **moments}
    step(model, optimizer, 9)
    step(other, resumed, 9)
    for (name, parameter), source in zip(other.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(parameter, source), name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_embeddings_keep_adamws_moments(optimizer: str) -> None:
    model, _ = make()
    assert moment_keys(optimizer, "embeddings.weight", model.embeddings.weight) == ("exp_avg", "exp_avg_sq")
