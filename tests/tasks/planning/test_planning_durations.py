"""Hours, against figures that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.errors import ConfigurationError
from model import preset
from model.sizing import Rates, slowdown
from tasks.planning.durations import Fleet, added_time, training_hours
from tasks.planning.flops import stage_flops
from tests.tasks.planning.plan_requests import offer, stage

SAM2, SLM = preset("sam2-5.5b"), preset("mamba-slm-1.3b")


def fleet(mfu: float = 0.4, instances: int = 1, **fields: object) -> Fleet:
    return Fleet(offer(**fields), instances, 8 * instances, mfu)


def test_a_hundred_billion_tokens_need_3000_a100_hours_at_full_speed() -> None:
    long_stage = stage(SAM2, context=4096, tokens=100_000_000_000, batch_tokens=1 << 21)
    hours = training_hours(long_stage, long_stage.placement(), fleet(mfu=1.0)) * 8
    # 6 N a token alone is 3.3e21 FLOPs for 5.5e9 parameters: 2,938 hours of 312 TFLOP/s. The model has 5.64e9, whose
    # embedding is only looked up, and mixes tokens besides.
    assert pytest.approx(2938, abs=1) == 6 * 5.5e9 * 100e9 / 312e12 / 3600
    assert hours >= 2938
    assert hours == pytest.approx(stage_flops(long_stage).total / 312e12 / 3600, rel=1e-9)
    assert hours < 3100


@pytest.mark.parametrize(("mfu", "days"), [(0.4, 9.5), (0.5, 7.6)])
def test_the_1_3b_model_takes_a_week_and_more(mfu: float, days: float) -> None:
    slm = stage(SLM, tokens=102_400_000_000, micro_batch=4)
    assert training_hours(slm, slm.placement(), fleet(mfu=mfu)) / 24 == pytest.approx(days, rel=0.1)


def test_hours_fall_with_ranks_mfu_and_peak_and_grow_with_tokens() -> None:
    base = training_hours(small := stage(preset("small")), small.placement(), fleet())
    assert training_hours(small, small.placement(), fleet(mfu=0.2)) == pytest.approx(2 * base)
    assert training_hours(small, small.placement(), fleet(peak_bf16_teraflops=624)) == pytest.approx(base / 2)
    twice = stage(preset("small"), tokens=1 << 31)
    assert training_hours(twice, twice.placement(), fleet()) == pytest.approx(2 * base)


def test_plain_training_within_one_machine_adds_nothing_and_recomputing_what_the_sizing_says() -> None:
    plain = stage(SAM2, context=4096, micro_batch=1)
    assert added_time(plain, plain.placement(), fleet()) == 0
    again = replace(plain.placement(), gradient_checkpointing=True)
    rates = Rates(flops_per_second=0.4 * 312e12, batch_tokens=plain.batch_tokens)
    difference = slowdown(SAM2, 4096, again, rates) - slowdown(SAM2, 4096, plain.placement(), rates)
    assert added_time(plain, again, fleet()) == pytest.approx(difference)
    assert 0.25 < difference < 1 / 3


def test_a_slow_network_between_machines_is_paid_for() -> None:
    small = stage(SAM2, context=4096, ranks=16)
    placement = small.placement()
    slow, fast = (added_time(small, placement, fleet(instances=2, network_gigabits_per_second=g)) for g in (100, 1600))
    assert slow > fast > 0
    # 100 Gbit/s are 12.5e9 bytes a second instead of 230e9, for 2 * 15/16 times the weights a micro-batch.
    tokens = placement.micro_batch * 4096
    sent = 2 * 15 / 16 * 2 * 5_639_659_520
    bare = stage_flops(small).per_token / (0.4 * 312e12)
    assert slow == pytest.approx(sent * (1 / 12.5e9 - 1 / 230e9) / tokens / bare)


def test_fp32_runs_at_its_own_peak_which_must_be_known() -> None:
    plain = stage(preset("small")).model_copy(update={"precision": "fp32", "zero_stage": 0})
    bf16 = stage(preset("small"))
    ratio = training_hours(plain, plain.placement(), fleet()) / training_hours(bf16, bf16.placement(), fleet())
    assert ratio == pytest.approx(312 / 19.5)
    with pytest.raises(ConfigurationError, match="peak_fp32_teraflops"):
        training_hours(plain, plain.placement(), fleet(peak_fp32_teraflops=None))
