"""The graphs' recurrences against their plain definitions, at decays from none to total."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.exports.onnx import recurrences
from model.exports.onnx.recurrences import inverse_unit_lower

TIME, HEADS, KEY, VALUE = 64, 2, 16, 24
DECAYS: dict[str, Callable[..., Tensor]] = {
    "weak": lambda *shape: -1e-4 * torch.rand(*shape),
    "gates": lambda *shape: functional.logsigmoid(2 * torch.randn(*shape)),
    "strong": lambda *shape: -80 * torch.rand(*shape),
    "weak behind one that forgets all": lambda *shape: torch.where(
        torch.arange(TIME).view(-1, *[1] * (len(shape) - 3)) == 9, -1e4, -1e-4
    ).expand(*shape),
}


@pytest.fixture(params=DECAYS)
def decay(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    return DECAYS[request.param]


def heads(size: int) -> Tensor:
    return torch.randn(2, HEADS, TIME, size)


def same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for ours, exact in zip(found, expected, strict=True):
        assert float((ours - exact).abs().max()) <= 2e-5 * max(1.0, float(exact.abs().max()))


def by_steps(step: Callable[..., tuple[Tensor, Tensor]], parts: list[Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence a token at a time in float64."""
    state, outputs = state.double(), []
    for time in range(TIME):
        output, state = step(*(part[:, :, time : time + 1].double() for part in parts), state)
        outputs.append(output)
    return torch.cat(outputs, dim=2).float(), state.float()


def test_gated_linear_attention(decay: Callable[..., Tensor]) -> None:
    query, key, value, state = heads(KEY), heads(KEY), heads(VALUE), torch.randn(2, HEADS, KEY, VALUE)
    log_decay = decay(2, HEADS, TIME, KEY)
    expected = by_steps(recurrences.step_gated_linear_attention, [query, key, value, log_decay.double().exp()], state)
    same(recurrences.chunk_gated_linear_attention(query, key, value, log_decay, state), expected)


@pytest.mark.parametrize("alike", [0.0, 0.95], ids=["any keys", "keys alike"])
def test_gated_delta_rule(decay: Callable[..., Tensor], alike: float) -> None:
    """Keys that are nearly the same make the triangular system as hard as it gets."""
    query, value, state = heads(KEY), heads(VALUE), torch.randn(2, HEADS, KEY, VALUE)
    key = functional.normalize((1 - alike) * heads(KEY) + alike * torch.randn(KEY), dim=-1)
    log_decay, strength = decay(2, HEADS, TIME), torch.rand(2, HEADS, TIME)
    expected = by_steps(recurrences.step_gated_delta_rule, [query, key, value, log_decay, strength], state)
    same(recurrences.chunk_gated_delta_rule(query, key, value, log_decay, strength, state), expected)


def test_state_space(decay: Callable[..., Tensor]) -> None:
    inputs, written, read = heads(VALUE), heads(KEY), heads(KEY)
    state, log_decay = torch.randn(2, HEADS, VALUE, KEY), decay(2, HEADS, TIME)
    expected = by_steps(recurrences.step_state_space, [inputs, log_decay, written, read], state)
    same(recurrences.chunk_state_space(inputs, log_decay, written, read, state), expected)


@pytest.mark.parametrize("time", [8, 16, TIME])
def test_the_inverse_is_one(time: int) -> None:
    """Of a random matrix, and of the hardest there is: all keys alike and nothing forgotten."""
    for lower in (torch.randn(3, time, time).tril(-1) / 4, torch.ones(time, time).tril(-1)):
        exact = torch.linalg.inv(torch.eye(time, dtype=torch.float64) + lower)
        assert float((inverse_unit_lower(lower) - exact).norm() / exact.norm()) < 1e-6


@pytest.mark.parametrize(
    ("ours", "exact"),
    [
        (recurrences.log1p, torch.log1p),
        (recurrences.log_sigmoid, functional.logsigmoid),
        (recurrences.softplus, functional.softplus),
    ],
)
def test_logarithms_keep_their_digits_at_both_ends(
    ours: Callable[[Tensor], Tensor], exact: Callable[[Tensor], Tensor]
) -> None:
    sizes = torch.logspace(-12, 1.9, 60)
    arguments = torch.cat([-sizes, torch.zeros(1), sizes])
    if ours is recurrences.log1p:
        arguments = arguments[arguments > -0.999]
    torch.testing.assert_close(ours(arguments), exact(arguments.double()).float(), rtol=2e-6, atol=0)
