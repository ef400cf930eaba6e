"""FLOPs by stage, against six a weight and what attention adds with the context."""

from __future__ import annotations

import pytest

from model import preset
from model.sizing import parameter_count
from tasks.planning.flops import stage_flops
from tests.tasks.planning.plan_requests import stage

SMALL = preset("small")


def test_matrices_take_six_flops_a_weight_and_token() -> None:
    flops = stage_flops(stage(SMALL))
    parameters = parameter_count(SMALL)
    weights = sum(flops.projections.values()) + flops.feed_forward + flops.head
    # Convolutions, norms and lower bounds are no matrices; the tied head is one, and the embedding none.
    assert weights == pytest.approx(6 * parameters.total, rel=0.002)


def test_only_the_quadratic_part_grows_with_the_context() -> None:
    short, long = stage_flops(stage(SMALL, context=512)), stage_flops(stage(SMALL, context=2048))
    layers = SMALL.mixer_kinds.count("attention")
    assert long.attention_quadratic - short.attention_quadratic == pytest.approx(
        layers * 3 * 2 * SMALL.width * (2048 - 512)
    )
    assert long.linear_mixing == short.linear_mixing
    assert (long.projections, long.feed_forward, long.head) == (short.projections, short.feed_forward, short.head)


def test_recomputing_adds_a_third_of_all_but_the_head_to_the_hardware_and_nothing_to_the_model() -> None:
    plain, again = stage_flops(stage(SMALL)), stage_flops(stage(SMALL, gradient_checkpointing=True))
    assert again.total == plain.total == plain.hardware_total
    assert again.hardware_total - again.total == pytest.approx((plain.per_token - plain.head) / 3 * plain.tokens)
    chunked = stage_flops(stage(SMALL, feed_forward_chunk_tokens=512))
    assert chunked.recomputed == pytest.approx(plain.feed_forward / 3)


def test_tokens_are_those_of_whole_updates() -> None:
    flops = stage_flops(stage(SMALL, tokens=(1 << 30) + 12345))
    assert flops.tokens == 1 << 30
