"""Each way of storing parameters is undone by its way of restoring them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model import ConfigurationError
from model.exports.hugging_face.places import JoinedRows, Scaled, UngatedQueries, ZeroCentred


@given(st.floats(0.5, 2.0**24, width=32))
def test_zero_centred_weights_from_a_half_up_are_exact(weight: float) -> None:
    place, tensor = ZeroCentred("norm", ("norm",)), torch.tensor([weight])
    assert torch.equal(place.restore(place.store([tensor]), [tensor.shape])[0], tensor)


@given(st.floats(-1e3, 0.5, width=32))
def test_other_zero_centred_weights_are_rounded_once(weight: float) -> None:
    place, tensor = ZeroCentred("norm", ("norm",)), torch.tensor([weight])
    restored = place.restore(place.store([tensor]), [tensor.shape])[0]
    assert abs(restored.item() - weight) <= 2.0**-24 * (1 + abs(weight))


def test_joined_rows_are_split_into_tensors_of_their_own() -> None:
    parts = [torch.randn(rows, 4) for rows in (3, 1, 2)]
    place = JoinedRows("joined", ("a", "b", "c"))
    stored = place.store(parts)
    assert torch.equal(stored[3], parts[1][0])
    restored = place.restore(stored, [part.shape for part in parts])
    assert all(torch.equal(part, back) for part, back in zip(parts, restored, strict=True))
    assert len({back.untyped_storage().data_ptr() for back in [stored, *restored]}) == 4


def test_gate_rows_follow_the_queries_of_each_head() -> None:
    place, queries = UngatedQueries("q_proj", ("q",), head_dim=2), torch.arange(1.0, 9.0).view(4, 2)
    stored = place.store([queries])
    assert stored.tolist() == [[1, 2], [3, 4], [0, 0], [0, 0], [5, 6], [7, 8], [0, 0], [0, 0]]
    assert torch.equal(place.restore(stored, [queries.shape])[0], queries)
    stored[6, 1] = 1e-9
    with pytest.raises(ConfigurationError, match="q_proj has an output gate"):
        place.restore(stored, [queries.shape])


def test_a_power_of_two_scales_without_rounding() -> None:
    place, tensor = Scaled("o_proj", ("o",), 2.0), torch.randn(5, 3)
    assert torch.equal(place.store([tensor]), tensor + tensor)
    assert torch.equal(place.restore(tensor + tensor, [tensor.shape])[0], tensor)
