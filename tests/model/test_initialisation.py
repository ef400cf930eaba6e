"""A new model keeps signals at one size at every depth and width, and learns at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model import HybridLM, ModelConfig, preset
from tests.support.trained_models import FAMILIES, text

STEPS = 30


def config_of_width(family: str, width: int) -> ModelConfig:
    fields = FAMILIES[family] | {
        "width": width,
        "feed_forward_width": 2 * width,
        "attention_heads": width // 32,
        "key_value_heads": width // 32,
    }
    return preset("miniature").changed(**fields)


def rows(generator: torch.Generator) -> Tensor:
    starts = torch.randint(0, len(text()) - 65, (4,), generator=generator)
    return torch.stack([text()[start : start + 65] for start in starts])


def loss_after_training(model: HybridLM) -> float:
    """Mean of the last five of `STEPS` steps."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.95))
    losses = []
    for _ in range(STEPS):
        batch = rows(generator)
        loss = model.loss(batch[:, :-1], batch[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-5:]) / 5


@torch.no_grad()
@pytest.mark.parametrize("width", [64, 256, 1024])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_signals_keep_their_size(family: str, width: int) -> None:
    model = HybridLM(config_of_width(family, width))
    branches: list[float] = []
    for block in model.layers:
        for module in (block.attn, block.mlp):
            module.register_forward_hook(lambda _m, _i, output: branches.append(output.square().mean().sqrt().item()))
    logits = model(text()[None, 2000:2128])
    assert 0.3 < logits.std() < 3
    # What a branch adds shrinks with depth by design, not with width: never silent, never loud.
    assert all(0.005 < size < 2 for size in branches), branches


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_narrow_model_learns_faster_than_with_a_fixed_standard_deviation(family: str) -> None:
    torch.manual_seed(0)
    ours = loss_after_training(HybridLM(config_of_width(family, 64)))
    fixed = HybridLM(config_of_width(family, 64))
    for module in fixed.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, std=0.02)
    assert ours < loss_after_training(fixed) - 0.1
    assert ours < 3.2  # a model of byte frequencies alone stays above
