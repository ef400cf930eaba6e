from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from model import HybridLM, preset
from tests.support.trained_models import FAMILIES, text, trained_model


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Models this small lose more to waiting threads than they gain."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def miniature() -> HybridLM:
    return HybridLM(preset("miniature")).eval()


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 256, (2, 150))


@pytest.fixture(params=list(FAMILIES))
def trained(request: pytest.FixtureRequest) -> HybridLM:
    """A trained model of each family."""
    return trained_model(request.param)


@pytest.fixture
def prompt_of() -> Callable[[int, int], list[int]]:
    """`prompt_of(start, length)`: tokens of real text."""
    return lambda start, length: text()[start : start + length].tolist()
