from __future__ import annotations

import pytest
import torch

from model.ops.hgrn2_gate import hgrn2_gate


@pytest.mark.parametrize("bound", [None, 0.0, 0.4])
def test_equals_the_definition(bound: float | None) -> None:
    forget = 8 * torch.randn(2, 5, 6)
    lower_bound = None if bound is None else torch.full((6,), bound)
    key, log_decay = hgrn2_gate(forget, lower_bound)
    floor = bound or 0.0
    decay = floor + (1 - floor) * forget.double().sigmoid()
    torch.testing.assert_close(key.double(), 1 - decay, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(log_decay.double().exp(), decay, atol=1e-6, rtol=1e-4)


def test_extreme_gates_stay_finite_with_finite_gradients() -> None:
    forget = torch.tensor([-200.0, -30.0, 0.0, 30.0, 200.0], requires_grad=True)
    for lower_bound in (None, torch.zeros(5), torch.full((5,), 0.9)):
        key, log_decay = hgrn2_gate(forget, lower_bound)
        (gradient,) = torch.autograd.grad(key.sum() + log_decay.sum(), forget)
        assert key.isfinite().all() and log_decay.isfinite().all() and gradient.isfinite().all()
