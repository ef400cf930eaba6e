from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import softplus

from model.ops import state_space_duality
from model.ops.reference import naive_state_space_duality
from model.ops.state_space_duality import chunk_state_space_duality, step_state_space_duality
from tests.support.mamba_ssm_source import mamba_ssm_module, needs_mamba_ssm_source
from tests.support.triton_interpreter import Call, interpret

# Mean pre-activation of the step sizes, and its spread: those of a fresh layer; steps near 1e-7; and steps from
# nothing to hundreds side by side, so that decays of exp(-1000) stand next to none.
ORDINARY, TINY, EXTREME = (-4.0, 1.0), (-16.0, 1.0), (0.0, 30.0)


class Case(NamedTuple):
    inputs: Tensor
    step_sizes: Tensor
    decay_rates: Tensor
    B: Tensor
    C: Tensor
    skip: Tensor
    state: Tensor


def make_case(time: int, steps: tuple[float, float] = ORDINARY, groups: int = 1, batch: int = 2) -> Case:
    heads, head_dim, size = 4, 8, 16
    random = {"dtype": torch.float64}
    return Case(
        inputs=torch.randn(batch, time, heads, head_dim, **random),
        step_sizes=softplus(steps[0] + steps[1] * torch.randn(batch, time, heads, **random)),
        decay_rates=-torch.tensor([0.001, 1.0, 4.0, 16.0], **random),
        B=torch.randn(batch, time, groups, size, **random),
        C=torch.randn(batch, time, groups, size, **random),
        skip=torch.randn(heads, **random),
        state=torch.randn(batch, heads, head_dim, size, **random),
    )


def outputs_and_gradients(
    operation: Callable[..., tuple[Tensor, Tensor]],
    case: Case,
    dtype: torch.dtype,
    document_starts: Tensor | None = None,
) -> dict[str, Tensor]:
    leaves = [part.to(dtype).requires_grad_() for part in case]
    output, state = operation(*leaves[:5], skip=leaves[5], initial_state=leaves[6], document_starts=document_starts)
    # Fixed, uneven gradients of both results, so that every path through the backward pass counts.
    weights = [torch.linspace(-1, 1, result.numel(), dtype=dtype).view_as(result) for result in (output, state)]
    gradients = torch.autograd.grad([output, state], leaves, weights)
    results = {"output": output.detach(), "final state": state.detach()}
    return results | {f"gradient of {name}": gradient for name, gradient in zip(Case._fields, gradients, strict=True)}


def relative_errors(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """`max|a - b| / max|b|` of each result."""
    return {
        name: float((found[name].double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
        for name, expected in exact.items()
    }


def assert_equals_recurrence(case: Case, document_starts: Tensor | None = None) -> None:
    # Both see the same float32 numbers; the recurrence then computes in float64.
    case = Case(*(part.float().double() for part in case))
    exact = outputs_and_gradients(naive_state_space_duality, case, torch.float64, document_starts)
    fast = outputs_and_gradients(chunk_state_space_duality, case, torch.float32, document_starts)
    errors = relative_errors(fast, exact)
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("steps", [ORDINARY, TINY, EXTREME])
@pytest.mark.parametrize("time", [1, 7, 64, 65, 333])
def test_equals_the_recurrence_in_outputs_state_and_gradients(
    time: int, steps: tuple[float, float], groups: int
) -> None:
    assert_equals_recurrence(make_case(time, steps, groups))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("steps", [ORDINARY, EXTREME])
def test_documents_are_isolated_and_gradients_stay_exact(steps: tuple[float, float], groups: int) -> None:
    assert_equals_recurrence(make_case(200, steps, groups), document_starts=torch.rand(2, 200) < 0.05)


@settings(max_examples=25, deadline=None)
@given(time=st.integers(1, 140), step=st.floats(0, 40), starts=st.sets(st.integers(0, 139), max_size=6))
def test_any_length_decay_and_boundaries(time: int, step: float, starts: set[int]) -> None:
    case = make_case(time, groups=2)._replace(step_sizes=torch.full((2, time, 4), step, dtype=torch.float64))
    boundaries = torch.zeros(2, time, dtype=torch.bool)
    boundaries[:, [start for start in starts if start < time]] = True
    assert_equals_recurrence(case, boundaries)


def test_rows_of_the_batch_are_worked_on_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(100, groups=2, batch=5)
    starts = torch.rand(5, 100) < 0.05
    together = outputs_and_gradients(chunk_state_space_duality, case, torch.float32, starts)
    monkeypatch.setattr(state_space_duality, "TILE_ELEMENTS", 2 * 4 * 8 * (64 + 16))
    in_tiles = outputs_and_gradients(chunk_state_space_duality, case, torch.float32, starts)
    assert max(relative_errors(in_tiles, together).values()) < 1e-6


def test_without_skip_and_state_it_starts_from_nothing() -> None:
    case = make_case(90)
    output, state = chunk_state_space_duality(*(part.float() for part in case[:5]))
    exact, exact_state = naive_state_space_duality(*case[:5])
    torch.testing.assert_close(output.double(), exact, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state.double(), exact_state, atol=1e-5, rtol=1e-5)


def test_parts_that_need_no_gradient_change_none_of_the_others() -> None:
    case = [part.float() for part in make_case(70)]
    plain = chunk_state_space_duality(*case[:5], skip=case[5], initial_state=case[6])[0]
    case[3].requires_grad_()
    output = chunk_state_space_duality(*case[:5], skip=case[5], initial_state=case[6])[0]
    assert torch.equal(plain, output)
    (gradient,) = torch.autograd.grad(output.sum(), case[3])
    assert gradient.abs().sum() > 0


def test_results_with_and_without_a_graph_are_the_same() -> None:
    case = [part.float() for part in make_case(150)]
    with torch.no_grad():
        plain = chunk_state_space_duality(*case[:5], skip=case[5], initial_state=case[6])
    recorded = chunk_state_space_duality(*case[:5], skip=case[5], initial_state=case[6])
    assert all(torch.equal(left, right) for left, right in zip(plain, recorded, strict=True))


@pytest.mark.parametrize("groups", [1, 2])
def test_split_sequence_and_single_steps_continue_the_state(groups: int) -> None:
    x, dt, A, B, C, skip, state = (part.float() for part in make_case(90, groups=groups))
    whole, final = chunk_state_space_duality(x, dt, A, B, C, skip=skip, initial_state=state)
    parts = []
    for window in (slice(0, 50), slice(50, 80)):
        output, state = chunk_state_space_duality(
            x[:, window], dt[:, window], A, B[:, window], C[:, window], skip=skip, initial_state=state
        )
        parts.append(output)
    for step in range(80, 90):
        before = state.clone()
        output, after = step_state_space_duality(x[:, step], dt[:, step], A, B[:, step], C[:, step], state, skip=skip)
        assert torch.equal(state, before)
        state = after
        parts.append(output.unsqueeze(1))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, final, atol=1e-5, rtol=1e-5)


def test_computes_in_float32_under_autocast() -> None:
    case = [part.float() for part in make_case(70)]
    expected, _ = chunk_state_space_duality(*case[:5], skip=case[5])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = chunk_state_space_duality(*case[:5], skip=case[5])
        step_output, step_state = step_state_space_duality(
            case[0][:, 0], case[1][:, 0], case[2], case[3][:, 0], case[4][:, 0], torch.zeros_like(state), skip=case[5]
        )
    assert state.dtype == step_state.dtype == torch.float32
    assert torch.equal(output, expected)
    torch.testing.assert_close(step_output, expected[:, 0], atol=1e-6, rtol=1e-6)


@needs_mamba_ssm_source
def test_equals_mamba_ssms_minimal_listing() -> None:
    minimal = mamba_ssm_module("modules.ssd_minimal").ssd_minimal_discrete

    def listing(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        B, C = (part.repeat_interleave(x.shape[2] // part.shape[2], dim=2) for part in (B, C))
        states = options["initial_state"].unsqueeze(1)
        output, state = minimal(x * dt.unsqueeze(-1), A * dt, B, C, block_len=37, initial_states=states)
        return output + options["skip"].unsqueeze(-1) * x, state

    for steps in (ORDINARY, TINY, EXTREME):
        case = Case(*(part.float().double() for part in make_case(9 * 37, steps, groups=2)))
        exact = outputs_and_gradients(listing, case, torch.float64)
        fast = outputs_and_gradients(chunk_state_space_duality, case, torch.float32)
        errors = relative_errors(fast, exact)
        assert max(errors.values()) < 1e-5, errors


@needs_mamba_ssm_source
def test_equals_mamba_ssms_selective_scan() -> None:
    reference = mamba_ssm_module("ops.selective_scan_interface").selective_scan_ref

    def scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        heads, head_dim = x.shape[2:]
        output, state = reference(
            x.flatten(2).transpose(1, 2),
            dt.repeat_interleave(head_dim, dim=2).transpose(1, 2),
            A.repeat_interleave(head_dim).unsqueeze(-1).expand(-1, B.shape[-1]),
            B.permute(0, 2, 3, 1),
            C.permute(0, 2, 3, 1),
            D=options["skip"].repeat_interleave(head_dim),
            return_last_state=True,
        )
        # Its state always starts from nothing; a term without weight keeps the gradients' names.
        output = output.transpose(1, 2).unflatten(2, (heads, head_dim))
        return output, state.unflatten(1, (heads, head_dim)) + 0 * options["initial_state"]

    for steps in (ORDINARY, TINY, EXTREME):
        case = make_case(333, steps, groups=2)
        case = case._replace(state=torch.zeros_like(case.state))
        exact = outputs_and_gradients(scan, case, torch.float32)
        fast = outputs_and_gradients(chunk_state_space_duality, case, torch.float32)
        exact.pop("gradient of state")
        errors = relative_errors(fast, {name: expected.double() for name, expected in exact.items()})
        assert max(errors.values()) < 1e-5, errors


@needs_mamba_ssm_source
@pytest.mark.slow
def test_equals_mamba_ssms_triton_kernels_through_the_gpu_path() -> None:
    case = Case(*(part.float() for part in make_case(70, (-1.0, 1.0), groups=2)))
    starts = torch.zeros(2, 70, dtype=torch.bool)
    starts[0, 30] = starts[1, 0] = starts[1, 33] = starts[1, 50] = True
    tensors = dict(zip(_ARGUMENTS, case, strict=True))
    calls = [Call(_INTERPRETED, tensors | documents, gradients=True) for documents in ({}, {"document_starts": starts})]
    for documents, found in zip((None, starts), interpret(calls), strict=True):
        exact = outputs_and_gradients(chunk_state_space_duality, case, torch.float32, documents)
        names = ["result0", "result1", *(f"gradient.{name}" for name in _ARGUMENTS)]
        errors = relative_errors(dict(zip(exact, (found[name] for name in names), strict=True)), exact)
        assert max(errors.values()) < 1e-5, errors


_ARGUMENTS = ("inputs", "step_sizes", "decay_rates", "B", "C", "skip", "initial_state")
_INTERPRETED = "tests.support.mamba_ssm_source:interpreted_state_space_duality"
