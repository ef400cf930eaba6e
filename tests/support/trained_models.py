"""Small models of each family with trained weights: parity on random weights proves little about decays and gates."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import torch
from torch import Tensor

from model import HybridLM, ModelConfig, preset

#: One description a family, all of 3 linear layers to 1 of attention (Mamba-2: attention first and last, as in
#: the MAMBA-SLM presets, whose norm epsilon is 1e-5 everywhere).
FAMILIES: dict[str, dict[str, object]] = {
    "hgrn2": {"pattern": ("hgrn2", "hgrn2", "hgrn2", "attention")},
    "gated_deltanet": {
        "pattern": ("gated_deltanet", "gated_deltanet", "gated_deltanet", "attention"),
        "gated_deltanet_head_dim": 32,
    },
    "mamba2": {
        "layer_kinds": ("attention", "mamba2", "mamba2", "attention"),
        "mamba2_head_dim": 32,
        "mamba2_state_size": 32,
        "norm_eps": 1e-5,
    },
}
_STEPS, _ROWS, _CONTEXT = 60, 4, 96


def small_config(family: str, name: str = "miniature", **changes: object) -> ModelConfig:
    """`preset(name)` (`miniature`: width 64; `miniature-256`: rows fit K-quants) with the family's layers."""
    return preset(name).changed(**(FAMILIES[family] | changes))


@functools.cache
def text() -> Tensor:
    """Bytes of real text, `[bytes]`: a module of the standard library."""
    return torch.tensor(list(Path(argparse.__file__).read_bytes()))


def trained_model(family: str, name: str = "miniature", **changes: object) -> HybridLM:
    """A fresh copy of a model trained for some seconds on `text`, in evaluation mode; trained once a process."""
    config = small_config(family, name, **changes)
    model = HybridLM(config)
    model.load_state_dict(_trained(config).state_dict())
    return model.eval()


@functools.lru_cache(maxsize=16)
def _trained(config: ModelConfig) -> HybridLM:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HybridLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3 if config.width < 128 else 2e-3, betas=(0.9, 0.95))
    for _ in range(_STEPS):
        starts = torch.randint(0, len(text()) - _CONTEXT - 1, (_ROWS,), generator=generator)
        rows = torch.stack([text()[start : start + _CONTEXT + 1] for start in starts])
        loss = model.loss(rows[:, :-1], rows[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert loss.item() < 3.6, f"the reference model did not learn: {loss.item():.2f} nats a byte"
    return model
