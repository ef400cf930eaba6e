from __future__ import annotations

import pytest
import torch

from model import HybridLM
from model.compilation import compile_blocks
from tests.support.trained_models import FAMILIES, small_config


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_compiled_blocks_give_the_same_loss_and_gradients(family: str, tokens: torch.Tensor) -> None:
    model = HybridLM(small_config(family))
    names = list(model.state_dict())
    inputs, targets = tokens[:, :65], tokens[:, 1:66]
    expected = torch.autograd.grad(model.loss(inputs, targets), list(model.parameters()))
    # Traced as for inductor, run without its C++ compiler.
    compile_blocks(model, backend="aot_eager")
    loss = model.loss(inputs, targets)
    assert list(model.state_dict()) == names
    for ours, theirs in zip(torch.autograd.grad(loss, list(model.parameters())), expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
