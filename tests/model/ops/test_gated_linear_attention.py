from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import logsigmoid

from model.ops.gated_linear_attention import chunk_gated_linear_attention, step_gated_linear_attention
from model.ops.reference import naive_gated_linear_attention, pairwise_gated_linear_attention

ORDINARY, EXTREME = 1.0, 30.0


class Case(NamedTuple):
    query: Tensor
    key: Tensor
    value: Tensor
    log_decay: Tensor
    state: Tensor


def make_case(time: int, gate_spread: float = ORDINARY, key_dim: int = 16, value_dim: int = 24) -> Case:
    batch, heads = 2, 2
    shape = (batch, time, heads, key_dim)
    return Case(
        query=torch.randn(shape, dtype=torch.float64),
        key=torch.rand(shape, dtype=torch.float64),
        value=torch.randn(batch, time, heads, value_dim, dtype=torch.float64),
        log_decay=logsigmoid(gate_spread * torch.randn(shape, dtype=torch.float64)),
        state=torch.randn(batch, heads, key_dim, value_dim, dtype=torch.float64),
    )


def outputs_and_gradients(
    operation: Callable[..., tuple[Tensor, Tensor]],
    case: Case,
    dtype: torch.dtype,
    document_starts: Tensor | None = None,
) -> dict[str, Tensor]:
    leaves = [part.to(dtype).requires_grad_() for part in case]
    output, state = operation(*leaves[:4], initial_state=leaves[4], document_starts=document_starts)
    # Fixed, uneven gradients of both results, so that every path through the backward pass counts.
    weights = [torch.linspace(-1, 1, result.numel(), dtype=dtype).view_as(result) for result in (output, state)]
    gradients = torch.autograd.grad([output, state], leaves, weights)
    return {"output": output, "state": state} | dict(zip(Case._fields, gradients, strict=True))


def assert_equals_recurrence(case: Case, document_starts: Tensor | None = None) -> None:
    exact = outputs_and_gradients(naive_gated_linear_attention, case, torch.float64, document_starts)
    fast = outputs_and_gradients(chunk_gated_linear_attention, case, torch.float32, document_starts)
    for name, expected in exact.items():
        error = (fast[name].double() - expected).abs().max() / expected.abs().max().clamp_min(1.0)
        assert error < 1e-5, f"{name} is off by {error:.1e}"


@pytest.mark.parametrize("gate_spread", [ORDINARY, EXTREME])
@pytest.mark.parametrize("time", [1, 7, 64, 65, 200])
def test_equals_the_recurrence_in_outputs_state_and_gradients(time: int, gate_spread: float) -> None:
    assert_equals_recurrence(make_case(time, gate_spread))


@pytest.mark.parametrize("gate_spread", [ORDINARY, EXTREME])
def test_documents_are_isolated_and_gradients_stay_exact(gate_spread: float) -> None:
    assert_equals_recurrence(make_case(200, gate_spread), document_starts=torch.rand(2, 200) < 0.05)


@settings(max_examples=25, deadline=None)
@given(time=st.integers(1, 140), decay=st.floats(-40, 0), starts=st.sets(st.integers(0, 139), max_size=6))
def test_any_length_decay_and_boundaries(time: int, decay: float, starts: set[int]) -> None:
    case = make_case(time)._replace(log_decay=torch.full((2, time, 2, 16), decay, dtype=torch.float64))
    boundaries = torch.zeros(2, time, dtype=torch.bool)
    boundaries[:, [start for start in starts if start < time]] = True
    assert_equals_recurrence(case, boundaries)


def test_equals_the_pairwise_sum() -> None:
    case = make_case(70, EXTREME)
    output, _ = chunk_gated_linear_attention(*(part.float() for part in case[:4]))
    torch.testing.assert_close(output.double(), pairwise_gated_linear_attention(*case[:4]), atol=1e-5, rtol=1e-5)


def test_split_sequence_and_single_steps_continue_the_state() -> None:
    query, key, value, decay, state = (part.float() for part in make_case(90))
    whole, final = chunk_gated_linear_attention(query, key, value, decay, initial_state=state)
    parts = []
    for begin, end in ((0, 50), (50, 80)):
        piece = (part[:, begin:end] for part in (query, key, value, decay))
        output, state = chunk_gated_linear_attention(*piece, initial_state=state)
        parts.append(output)
    for step in range(80, 90):
        output, state = step_gated_linear_attention(query[:, step], key[:, step], value[:, step], decay[:, step], state)
        parts.append(output.unsqueeze(1))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, final, atol=1e-5, rtol=1e-5)


def test_computes_in_float32_under_autocast() -> None:
    case = [part.float() for part in make_case(40)[:4]]
    expected, _ = chunk_gated_linear_attention(*case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = chunk_gated_linear_attention(*case)
    assert state.dtype == torch.float32
    assert torch.equal(output, expected)
