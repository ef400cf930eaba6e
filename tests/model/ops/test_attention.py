from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.ops.attention import causal_attention, continued_attention, document_attention


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The definition, in float64: the queries are the last tokens of the keys."""
    query, key, value = query.double(), key.double(), value.double()
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    past = key.shape[2] - query.shape[2]
    future = torch.ones_like(scores, dtype=torch.bool).triu(past + 1)
    return scores.masked_fill(future, float("-inf")).softmax(-1) @ value


def heads(time: int, past: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, 4, time, 16), torch.randn(2, 2, past + time, 16), torch.randn(2, 2, past + time, 16)


@pytest.mark.parametrize("time", [1, 5, 70])
@pytest.mark.parametrize("past", [0, 1, 90])
def test_continuation_equals_the_definition(time: int, past: int) -> None:
    query, key, value = heads(time, past)
    output = continued_attention(query, key, value)
    torch.testing.assert_close(output.double(), plain_attention(query, key, value), atol=1e-5, rtol=1e-5)


def test_continuation_works_where_the_fused_kernel_does_not_apply() -> None:
    query, key, value = (part.double() for part in heads(20, past=30))
    output = continued_attention(query, key, value)
    torch.testing.assert_close(output, plain_attention(query, key, value), atol=1e-5, rtol=1e-5)


def test_documents_see_only_themselves() -> None:
    query, key, value = heads(30)
    packed = document_attention(query, key, value, [10, 20, 5, 25])
    alone = causal_attention(query[1:, :, 5:], key[1:, :, 5:], value[1:, :, 5:])
    torch.testing.assert_close(packed[1:, :, 5:], alone)


def test_documents_must_fill_the_rows() -> None:
    with pytest.raises(ValueError, match="sum to 59"):
        document_attention(*heads(30), [30, 29])
