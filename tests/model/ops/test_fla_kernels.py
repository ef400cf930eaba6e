"""Our recurrences against flash-linear-attention's: its plain definitions, and its Triton kernels interpreted.

The kernels are called both directly and through `model.ops.cuda_kernels`, so that what a GPU would be given is what
these tests have seen to be right. All of it happens in one child process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from model.ops.gated_delta_rule import chunk_gated_delta_rule
from model.ops.gated_linear_attention import chunk_gated_linear_attention
from model.ops.reference import naive_gated_delta_rule, naive_gated_linear_attention
from tests.support.triton_interpreter import Call, interpret, slopes

KEY_DIM, VALUE_DIM = 16, 32
Operation = Callable[..., tuple[Tensor, Tensor]]

#: Our names of inputs, and fla's.
DELTA_RULE = {
    "query": "q",
    "key": "k",
    "value": "v",
    "log_decay": "g",
    "beta": "beta",
    "initial_state": "initial_state",
}
LINEAR_ATTENTION = {"query": "q", "key": "k", "value": "v", "log_decay": "g", "initial_state": "initial_state"}


def delta_rule_case(time: int, gates: str = "ordinary", heads: int = 1, beta: float | None = None) -> dict[str, Tensor]:
    shape = (1, time, heads)
    key = torch.randn(*shape, KEY_DIM)
    if beta == 1.0:
        key = key[:, :1] + 0.05 * key
    return {
        "query": normalize(torch.randn(*shape, KEY_DIM), dim=-1),
        "key": normalize(key, dim=-1),
        "value": torch.randn(*shape, VALUE_DIM),
        "log_decay": _gates(shape, gates),
        "beta": torch.rand(shape) if beta is None else torch.full(shape, beta),
        "initial_state": torch.randn(1, heads, KEY_DIM, VALUE_DIM),
    }


def linear_attention_case(time: int, gates: str = "ordinary", heads: int = 1) -> dict[str, Tensor]:
    shape = (1, time, heads, KEY_DIM)
    return {
        "query": torch.randn(shape),
        "key": torch.rand(shape),
        "value": torch.randn(1, time, heads, VALUE_DIM),
        "log_decay": _gates(shape, gates),
        "initial_state": torch.randn(1, heads, KEY_DIM, VALUE_DIM),
    }


def _gates(shape: tuple[int, ...], kind: str) -> Tensor:
    if kind == "ordinary":
        return logsigmoid(3 + 2 * torch.randn(shape))
    ends = {"open": -1e-4, "shut": -90.0}
    return torch.full(shape, ends[kind]) if kind in ends else torch.where(torch.rand(shape) < 0.2, -90.0, -1e-3)


def boundaries(time: int, begins: list[int]) -> Tensor:
    starts = torch.zeros(1, time, dtype=torch.bool)
    starts[:, begins] = True
    return starts


class Comparison:
    """One case: what fla is called with, and what we compute from the same numbers."""

    def __init__(
        self,
        function: str,
        names: dict[str, str],
        ours: Operation,
        oracle: Operation,
        case: dict[str, Tensor],
        *,
        gradients: bool = True,
        documents: Tensor | None = None,
        **options: Any,
    ) -> None:
        self.names, self.case, self.ours, self.oracle, self.documents = names, case, ours, oracle, documents
        self.gradients = gradients
        tensors = {names[name]: part for name, part in case.items()}
        if documents is not None:
            tensors["document_starts"] = documents
        self.call = Call(function, tensors, options, gradients)

    def ours_in(self, operation: Operation, dtype: torch.dtype) -> dict[str, Tensor]:
        """Results under the names that `interpret` gives them."""
        leaves = {name: part.to(dtype).requires_grad_(self.gradients) for name, part in self.case.items()}
        results = operation(**leaves, document_starts=self.documents)
        found = {f"result{index}": result.detach() for index, result in enumerate(results)}
        if self.gradients:
            gradients = torch.autograd.grad(results, list(leaves.values()), [slopes(result) for result in results])
            found |= {f"gradient.{self.names[name]}": part for name, part in zip(leaves, gradients, strict=True)}
        return found

    def check(self, theirs: dict[str, Tensor]) -> None:
        """Outputs, final state and every gradient within 1e-5 of fla's, and of the recurrence in float64."""
        ours, exact = self.ours_in(self.ours, torch.float32), self.ours_in(self.oracle, torch.float64)
        assert ours.keys() == theirs.keys()
        for name, result in ours.items():
            assert _error(result, theirs[name]) < 1e-5, f"{name}, ours and fla's"
            assert _error(result, exact[name]) < 1e-5, f"{name}, ours and float64"


def _error(found: Tensor, expected: Tensor) -> float:
    """In units of the largest entry; below 0.1 absolute, because a decay under exp(-15) counts as exp(-15) in ours."""
    largest = expected.double().abs().max().clamp_min(0.1)
    return float((found.double() - expected.double()).abs().max() / largest)


delta_rule = functools.partial(Comparison, names=DELTA_RULE, ours=chunk_gated_delta_rule, oracle=naive_gated_delta_rule)
linear_attention = functools.partial(
    Comparison, names=LINEAR_ATTENTION, ours=chunk_gated_linear_attention, oracle=naive_gated_linear_attention
)
NAIVE_DELTA_RULE = "fla.ops.gated_delta_rule.naive:naive_recurrent_gated_delta_rule"
NAIVE_LINEAR_ATTENTION = "fla.ops.gla.naive:naive_recurrent_gla"
GK = LINEAR_ATTENTION | {"log_decay": "gk"}
OURS = {name: name for name in DELTA_RULE}


def comparisons() -> dict[str, Comparison]:
    torch.manual_seed(0)
    made: dict[str, Comparison] = {}
    for time in (1, 7, 64, 65, 333):
        made[f"delta rule, definition, {time}"] = delta_rule(
            NAIVE_DELTA_RULE, case=delta_rule_case(time, heads=2), output_final_state=True
        )
        made[f"linear attention, definition, {time}"] = linear_attention(
            NAIVE_LINEAR_ATTENTION, names=GK, case=linear_attention_case(time, heads=2), output_final_state=True
        )
    for gates in ("open", "shut", "either"):
        for beta in (0.0, 1.0):
            made[f"delta rule, definition, {gates}, beta {beta:g}"] = delta_rule(
                NAIVE_DELTA_RULE, case=delta_rule_case(100, gates, beta=beta), output_final_state=True
            )
        made[f"linear attention, definition, {gates}"] = linear_attention(
            NAIVE_LINEAR_ATTENTION, names=GK, case=linear_attention_case(100, gates), output_final_state=True
        )
    for time in (1, 7, 64, 65, 130):
        made[f"delta rule, chunk kernel, {time}"] = delta_rule(
            "fla.ops.gated_delta_rule:chunk_gated_delta_rule", case=delta_rule_case(time), output_final_state=True
        )
        made[f"linear attention, chunk kernel, {time}"] = linear_attention(
            "fla.ops.gla:chunk_gla", case=linear_attention_case(time), output_final_state=True
        )
    made["delta rule, recurrent kernel"] = delta_rule(
        "fla.ops.gated_delta_rule:fused_recurrent_gated_delta_rule",
        case=delta_rule_case(20),
        gradients=False,
        output_final_state=True,
    )
    made["linear attention, recurrent kernel"] = linear_attention(
        "fla.ops.gla:fused_recurrent_gla", names=GK, case=linear_attention_case(20), output_final_state=True
    )
    made["delta rule, chunk kernel, alike keys, beta 1"] = delta_rule(
        "fla.ops.gated_delta_rule:chunk_gated_delta_rule",
        case=delta_rule_case(70, "open", beta=1.0),
        output_final_state=True,
    )
    made |= dispatched()
    return made


def dispatched() -> dict[str, Comparison]:
    """Through the functions that call the kernels on a GPU: names, defaults, documents and states are converted."""
    made = {}
    for what, make, case in (
        ("delta rule", functools.partial(delta_rule, "model.ops.cuda_kernels:gated_delta_rule"), delta_rule_case),
        (
            "linear attention",
            functools.partial(linear_attention, "model.ops.cuda_kernels:gated_linear_attention"),
            linear_attention_case,
        ),
    ):
        make = functools.partial(make, names=OURS)
        made[f"{what}, dispatched"] = make(case=case(66))
        made[f"{what}, dispatched, few tokens"] = make(case=case(5, heads=2), gradients=False)
        made[f"{what}, dispatched, documents after the old state"] = make(
            case=case(70), documents=boundaries(70, [3, 67])
        )
        made[f"{what}, dispatched, documents"] = make(case=case(40), documents=boundaries(40, [0, 10]))
    return made


COMPARISONS = comparisons()


@pytest.fixture(scope="module")
def theirs() -> dict[str, dict[str, Tensor]]:
    results = interpret([comparison.call for comparison in COMPARISONS.values()])
    return dict(zip(COMPARISONS, results, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPARISONS)
def test_equals_flash_linear_attention(name: str, theirs: dict[str, dict[str, Tensor]]) -> None:
    COMPARISONS[name].check(theirs[name])
