from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from model.ops.gated_delta_rule import (
    chunk_gated_delta_rule,
    l2_normalised,
    step_gated_delta_rule,
    unit_lower_inverse,
)
from model.ops.reference import naive_gated_delta_rule

BATCH, HEADS, KEY_DIM, VALUE_DIM = 2, 2, 16, 24


class Case(NamedTuple):
    query: Tensor
    key: Tensor
    value: Tensor
    log_decay: Tensor
    beta: Tensor
    state: Tensor


def make_case(time: int) -> Case:
    shape = (BATCH, time, HEADS)
    return Case(
        query=normalize(torch.randn(*shape, KEY_DIM, dtype=torch.float64), dim=-1),
        key=normalize(torch.randn(*shape, KEY_DIM, dtype=torch.float64), dim=-1),
        value=torch.randn(*shape, VALUE_DIM, dtype=torch.float64),
        log_decay=logsigmoid(3 + 2 * torch.randn(shape, dtype=torch.float64)),
        beta=torch.rand(shape, dtype=torch.float64),
        state=torch.randn(BATCH, HEADS, KEY_DIM, VALUE_DIM, dtype=torch.float64),
    )


def alike(key: Tensor) -> Tensor:
    """Keys that differ by a hundredth of their length: `I + L` is as far from the identity as it can be."""
    return normalize(key[:, :1] + 0.01 * key, dim=-1)


def outputs_and_gradients(
    operation: Callable[..., tuple[Tensor, Tensor]],
    case: Case,
    dtype: torch.dtype,
    document_starts: Tensor | None = None,
) -> dict[str, Tensor]:
    leaves = [part.to(dtype).requires_grad_() for part in case]
    output, state = operation(*leaves[:5], initial_state=leaves[5], document_starts=document_starts)
    # Fixed, uneven gradients of both results, so that every path through the backward pass counts.
    weights = [torch.linspace(-1, 1, result.numel(), dtype=dtype).view_as(result) for result in (output, state)]
    gradients = torch.autograd.grad([output, state], leaves, weights)
    results = {"output": output.detach(), "final state": state.detach()}
    return results | dict(zip(Case._fields, gradients, strict=True))


def errors(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """The largest error of each tensor, in units of the exact tensor's largest entry."""
    return {
        name: float((found[name].double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
        for name, expected in exact.items()
    }


def assert_equals_recurrence(case: Case, document_starts: Tensor | None = None, within: float = 1e-5) -> None:
    # Both see the numbers that float32 can hold.
    case = Case(*(part.float().double() for part in case))
    exact = outputs_and_gradients(naive_gated_delta_rule, case, torch.float64, document_starts)
    found = outputs_and_gradients(chunk_gated_delta_rule, case, torch.float32, document_starts)
    for name, error in errors(found, exact).items():
        assert error < within, f"{name} is off by {error:.1e}"


@pytest.mark.parametrize("time", [1, 7, 16, 64, 65, 333])
def test_equals_the_recurrence_in_outputs_state_and_gradients(time: int) -> None:
    assert_equals_recurrence(make_case(time))


GATES = {
    "nothing forgotten": lambda shape: torch.full(shape, -1e-6),
    "all forgotten": lambda shape: torch.full(shape, -90.0),
    "either": lambda shape: torch.where(torch.rand(shape) < 0.2, -90.0, -1e-3),
    "halved": lambda shape: torch.full(shape, -0.7),
}


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("correlated", [False, True])
def test_equals_the_recurrence_at_the_ends_of_every_range(gates: str, beta: float, correlated: bool) -> None:
    case = make_case(130)
    shape = case.beta.shape
    key = alike(case.key) if correlated else case.key
    case = case._replace(key=key, log_decay=GATES[gates](shape).double(), beta=torch.full(shape, beta).double())
    assert_equals_recurrence(case)


@pytest.mark.parametrize("time", [1, 16, 64])
def test_leaves_its_inputs_as_they_were(time: int) -> None:
    # One chunk, row and head: the layouts inside and outside are then the same memory.
    leaves = [part[:1, :, :1].float().contiguous().requires_grad_() for part in make_case(time)[:5]]
    before = [leaf.detach().clone() for leaf in leaves]
    output, state = chunk_gated_delta_rule(*leaves)
    results = [output.detach().clone(), state.detach().clone()]
    torch.autograd.grad([output, state], leaves, [output.detach(), state.detach()])
    for now, then in zip([*leaves, output, state], [*before, *results], strict=True):
        assert torch.equal(now, then)


def test_documents_are_isolated_and_gradients_stay_exact() -> None:
    starts = torch.rand(BATCH, 200) < 0.05
    assert_equals_recurrence(make_case(200), document_starts=starts)
    assert_equals_recurrence(make_case(200), document_starts=torch.ones_like(starts))


def test_packed_documents_equal_documents_one_by_one() -> None:
    case = [part.float() for part in make_case(150)[:5]]
    ends = [0, 1, 40, 105, 150]
    starts = torch.zeros(BATCH, 150, dtype=torch.bool)
    starts[:, ends[:-1]] = True
    packed, state = chunk_gated_delta_rule(*case, document_starts=starts)
    apart = [chunk_gated_delta_rule(*(part[:, begin:end] for part in case)) for begin, end in itertools.pairwise(ends)]
    torch.testing.assert_close(packed, torch.cat([output for output, _ in apart], dim=1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(state, apart[-1][1], atol=1e-6, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    time=st.integers(1, 140),
    decay=st.floats(-100, 0),
    beta=st.floats(0, 1),
    starts=st.sets(st.integers(0, 139), max_size=6),
)
def test_any_length_decay_beta_and_boundaries(time: int, decay: float, beta: float, starts: set[int]) -> None:
    case = make_case(time)
    shape = case.beta.shape
    case = case._replace(log_decay=torch.full(shape, decay).double(), beta=torch.full(shape, beta).double())
    boundaries = torch.zeros(BATCH, time, dtype=torch.bool)
    boundaries[:, [start for start in starts if start < time]] = True
    assert_equals_recurrence(case, boundaries)


def test_split_sequence_and_single_steps_continue_the_state() -> None:
    *parts, state = (part.float() for part in make_case(90))
    whole, final = chunk_gated_delta_rule(*parts, initial_state=state)
    outputs = []
    for begin, end in ((0, 50), (50, 80)):
        output, state = chunk_gated_delta_rule(*(part[:, begin:end] for part in parts), initial_state=state)
        outputs.append(output)
    for token in range(80, 90):
        held = state.clone()
        output, following = step_gated_delta_rule(*(part[:, token] for part in parts), state)
        assert torch.equal(state, held)
        outputs.append(output.unsqueeze(1))
        state = following
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(state, final, atol=1e-6, rtol=1e-5)


def test_computes_in_float32_under_autocast() -> None:
    case = [part.float() for part in make_case(40)[:5]]
    expected, _ = chunk_gated_delta_rule(*case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = chunk_gated_delta_rule(*case)
    assert state.dtype == torch.float32
    assert torch.equal(output, expected)


def test_sixteen_bit_inputs_give_sixteen_bit_outputs_and_gradients_and_a_float32_state() -> None:
    leaves = [part.bfloat16().requires_grad_() for part in make_case(20)[:5]]
    output, state = chunk_gated_delta_rule(*leaves)
    assert (output.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert {grad.dtype for grad in torch.autograd.grad(output.sum(), leaves)} == {torch.bfloat16}


@pytest.mark.parametrize("size", [16, 32, 64])
def test_the_inverse_is_as_exact_as_a_triangular_solve(size: int) -> None:
    keys = alike(torch.randn(6, size, 64))
    lower = (keys @ keys.transpose(-1, -2)).tril(-1)
    identity = torch.eye(size).expand_as(lower)
    exact = torch.linalg.inv((lower + identity).double())
    solved = torch.linalg.solve_triangular(lower, identity, upper=False, unitriangular=True)
    # What lies on and above the diagonal must not be read.
    found = unit_lower_inverse(lower + torch.full_like(lower, 7.0).triu())
    assert (found - exact).abs().max() <= 2 * (solved - exact).abs().max() + 1e-7


def test_l2_norm_and_its_gradient() -> None:
    heads = torch.randn(3, 5, 8, requires_grad=True)
    twin = heads.detach().double().requires_grad_()
    expected = twin / (twin.square().sum(dim=-1, keepdim=True) + 1e-6).sqrt()
    found = l2_normalised(heads)
    weights = torch.randn(3, 5, 8)
    (gradient,) = torch.autograd.grad(found, heads, weights)
    (exact,) = torch.autograd.grad(expected, twin, weights.double())
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient.double(), exact, atol=1e-6, rtol=1e-5)
    assert l2_normalised(torch.zeros(1, 4)).isfinite().all()
