from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from model import HybridLM, ModelConfig, parameter_count
from model.mixers import MIXERS, Mixer
from model.sequence import Sequence


class RunningMean(Mixer):
    """The simplest mixer that can be written."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.o_proj = nn.Linear(config.width, config.width, bias=False)

    def forward(self, hidden: Tensor, sequence: Sequence, lower_bound: Tensor | None) -> Tensor:
        count = torch.arange(1, sequence.time + 1, device=hidden.device).unsqueeze(-1)
        output: Tensor = self.o_proj(hidden.cumsum(dim=1) / count)
        return output

    @staticmethod
    def check(config: ModelConfig) -> None: ...

    @staticmethod
    def parameter_count(config: ModelConfig) -> int:
        return config.width**2

    linear_parameter_count = parameter_count

    @staticmethod
    def mixing_flops(config: ModelConfig, context: int) -> float:
        return 2 * config.width

    @staticmethod
    def cache_bytes(config: ModelConfig, context: int, element_bytes: int) -> tuple[int, int]:
        return 0, 0


def test_a_new_mixer_needs_its_class_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, "running_mean", RunningMean)
    config = ModelConfig(width=64, hgrn2_head_dim=64, vocabulary_size=100, pattern=("running_mean", "hgrn2"))
    model = HybridLM(config)
    assert model(torch.zeros(1, 5, dtype=torch.long)).shape == (1, 5, 100)
    assert parameter_count(config).total == sum(parameter.numel() for parameter in model.parameters())
