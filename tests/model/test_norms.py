from __future__ import annotations

import torch
from torch.nn.functional import rms_norm

from model.norms import RMSNorm


def test_equals_the_definition_in_value_and_gradients() -> None:
    norm, hidden = RMSNorm(24, eps=1e-5).double(), torch.randn(2, 7, 24, dtype=torch.float64, requires_grad=True)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    torch.testing.assert_close(norm(hidden), rms_norm(hidden, (24,), norm.weight, 1e-5))
    assert torch.autograd.gradcheck(norm, (hidden,))
    weight = norm.weight
    expected = torch.autograd.grad(rms_norm(hidden, (24,), weight, 1e-5).square().sum(), [hidden, weight])
    for actual, wanted in zip(
        torch.autograd.grad(norm(hidden).square().sum(), [hidden, weight]), expected, strict=True
    ):
        torch.testing.assert_close(actual, wanted)


def test_a_zero_vector_stays_zero_with_a_finite_gradient() -> None:
    hidden = torch.zeros(3, 8, requires_grad=True)
    norm = RMSNorm(8, eps=1e-6)
    (gradient,) = torch.autograd.grad(norm(hidden).sum(), hidden)
    assert norm(hidden).abs().max() == 0 and gradient.isfinite().all()


def test_half_precision_keeps_its_dtype() -> None:
    hidden = torch.randn(3, 8, dtype=torch.bfloat16)
    assert RMSNorm(8, eps=1e-6)(hidden).dtype == torch.bfloat16
