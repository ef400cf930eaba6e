from __future__ import annotations

import pytest
import torch

from model import HybridLM, preset


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def miniature() -> HybridLM:
    return HybridLM(preset("miniature")).eval()


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 256, (2, 150))
