"""Comparison by hand, verdicts at the edge, the Pareto front."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tasks.quantization import QuantizationConfig, WeightFormat
from tasks.quantization.comparison import compare
from tasks.quantization.plots import pareto_front
from tasks.quantization.verdicts import row_of, verdict

CONFIG = QuantizationConfig(
    perplexity_gates={WeightFormat.Q8_0: 3.0}, kl_gates={WeightFormat.Q8_0: 0.1}, runtime_agreement_percent=0.5
)
SAME = {"tokens": 1, "loss": 2.0, "original_loss": 2.0, "kl": 0.0, "agreement": 1.0}


def scripted(seed: int, piece: int) -> Any:
    """Logits that depend on the token alone, given in pieces of so many tokens."""
    table = np.random.default_rng(seed).normal(size=(50, 50)).astype(np.float32)

    def logits(tokens: Sequence[int]) -> Iterator[np.ndarray]:
        for start in range(0, len(tokens), piece):
            yield table[list(tokens[start : start + piece])]

    return SimpleNamespace(logits=logits, table=table)


def test_comparison_by_hand_and_pieces_of_any_length() -> None:
    model, original, other = scripted(0, 3), scripted(1, 5), scripted(2, 100)
    rows = [list(range(1, 20)), list(range(30, 37)), [7, 9]]
    found, beside_other = compare(model, [original, other], rows)
    inputs = torch.tensor([token for row in rows for token in row[:-1]])
    targets = torch.tensor([token for row in rows for token in row[1:]])
    q, p, r = (torch.from_numpy(one.table)[inputs].double().log_softmax(-1) for one in (model, original, other))
    assert found.tokens == len(targets) == 25
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()))
    assert found.loss == beside_other.loss == pytest.approx(float(-q.gather(1, targets[:, None]).mean()))
    assert found.agreement == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))
    assert beside_other.original_loss == pytest.approx(float(-r.gather(1, targets[:, None]).mean()))
    assert found.perplexity == pytest.approx(math.exp(found.loss))


def figures(reading: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {"comparison": SAME | changes, "reading": reading}


@pytest.mark.parametrize(
    ("found", "expected", "reason"),
    [
        (figures(), "accepted", "within the 3% allowed"),
        (figures(loss=2 + math.log(1.029)), "accepted", r"\+2.90%"),
        (figures(loss=2 + math.log(1.031)), "refused", r"perplexity changes by \+3.10%, more than the 3% allowed"),
        (figures(loss=1.0), "accepted", "-63"),
        (figures(kl=0.11), "refused", r"KL to the original is 0.11 nats a token, more than the 0.1 allowed"),
        (figures(loss=None), "refused", "its loss is not finite"),
        (figures(SAME | {"loss": 2.004}), "accepted", "allowed"),
        (figures(SAME | {"loss": 2.006}), "refused", r"does not mean the same in llama.cpp.*\+0.60%"),
        (figures(SAME | {"loss": 1.99}), "refused", r"does not mean the same in llama.cpp.*-1.00%"),
        (figures(SAME | {"original_loss": None}), "refused", "our own reader is not finite"),
        ({"problem": "the process that measured it was killed by SIGKILL"}, "refused", "SIGKILL"),
    ],
)
def test_verdicts_at_the_edge_and_on_broken_models(found: dict[str, Any], expected: str, reason: str) -> None:
    result, why = verdict(CONFIG, WeightFormat.Q8_0, found)
    assert result == expected
    assert re.search(reason, why), why


def test_the_row_of_a_format_that_could_not_be_measured_has_no_figures() -> None:
    row = row_of(CONFIG, "q8_0", {"problem": "it crashed", "size_bytes": 2_000_000, "runtime": "llama.cpp, stock"})
    assert row["size_mb"] == 2
    assert row["verdict"] == "refused"
    assert row["perplexity"] is row["kl"] is row["tokens_per_second"] is None


def test_the_pareto_front_keeps_what_nothing_else_beats() -> None:
    assert pareto_front([(5.0, 0.3), (9.0, 0.1), (9.0, 0.2), (2.0, 0.01), (12.0, 0.4)]) == [
        (2.0, 0.01),
        (9.0, 0.1),
        (12.0, 0.4),
    ]
