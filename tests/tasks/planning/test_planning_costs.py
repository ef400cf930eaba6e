"""Dollars by line, and what is stored and prepared."""

from __future__ import annotations

import math

import pytest

from model import preset
from tasks.planning import Assumptions, CorpusFacts, StageTime
from tasks.planning.corpus import checkpoints_kept, corpus_plan
from tasks.planning.costs import committed_usd, preemption_overhead, rented_cost
from tests.tasks.planning.plan_requests import catalog, offer, request, stage

SMALL = preset("small")


def stage_time(hours: float) -> StageTime:
    return StageTime(
        stage="pretraining", hours=hours, gpu_hours=8 * hours, tokens_per_second=1.0, mfu=0.4, slowdown=0.0,
        placement=None,
    )  # fmt: skip


def test_every_line_of_a_bill() -> None:
    plan = corpus_plan(request(), 10**9)
    assumptions = Assumptions(contingency_share=0.1, evaluation_share=0.02, quantization_share=0.01, storage_months=1)
    box = offer(usd_per_hour=10.0)
    bill = rented_cost(box, 2, 73.0, 0.5, plan, catalog(box).rates("own"), assumptions)
    assert bill.compute_usd == pytest.approx(1460)
    assert bill.preemptions_usd == pytest.approx(730)
    assert bill.evaluation_usd == pytest.approx(29.2)
    assert bill.quantization_usd == pytest.approx(14.6)
    assert bill.preprocessing_usd == pytest.approx(sum(plan.core_hours.values()) * 0.05)
    assert bill.storage_usd == pytest.approx(plan.stored_bytes / 1e9 * 0.02 * (73 * 1.5 / 730 + 1))
    assert bill.transfer_usd == pytest.approx(plan.released_bytes / 1e9 * 0.1)
    before = bill.total_usd - bill.contingency_usd
    assert bill.contingency_usd == pytest.approx(0.1 * before)


def test_data_is_prepared_at_the_measured_rates() -> None:
    corpus = CorpusFacts(fetched_bytes=1e12, kept_share=0.45, bytes_per_token=4.5)
    plan = corpus_plan(request(corpus=corpus), 10**9)
    assert plan.core_hours["download"] == pytest.approx(1e12 / 70e6 / 3600)
    assert plan.core_hours["quality"] == pytest.approx(1e12 / 11e6 / 3600)
    assert plan.core_hours["deduplication"] == pytest.approx(0.5e12 / 25e6 / 3600)
    assert plan.core_hours["tokenization"] == pytest.approx(0.45e12 / 30e6 / 3600)
    assert plan.token_bytes == pytest.approx(2 * 1e11)  # two bytes an id below 65,536
    faster = corpus_plan(request(corpus=corpus, assumptions=Assumptions(core_speed=2.0)), 10**9)
    assert faster.core_hours["quality"] == pytest.approx(plan.core_hours["quality"] / 2)


def test_a_large_vocabulary_takes_four_bytes_an_id() -> None:
    model = preset("mamba-slm-1.3b")
    corpus = CorpusFacts(fetched_bytes=1e12, kept_share=0.45, bytes_per_token=4.5)
    plan = corpus_plan(request(stages=(stage(model),), corpus=corpus), 10**9)
    assert plan.token_bytes == pytest.approx(4 * 1e11)


def test_checkpoints_are_counted_by_the_retention_policy() -> None:
    one, two = stage(SMALL), stage(SMALL, name="second")
    # The two newest, the best and one to roll back to; a finished stage leaves one.
    assert checkpoints_kept([one]) == 4
    assert checkpoints_kept([one, two]) == 5
    often = two.model_copy(update={"checkpoint_kept_every_steps": 256})
    assert checkpoints_kept([one, often]) == 5 + often.steps // 256
    assert corpus_plan(request(), 10**9).checkpoint_bytes == 12 * 10**9


def test_preemptions_cost_half_an_interval_and_a_restart_each_when_they_are_rare() -> None:
    rare = stage(SMALL)  # a checkpoint every 600 s
    overhead = preemption_overhead([rare], [stage_time(1000.0)], 1e-4, restart_hours=0.5)
    assert overhead == pytest.approx(1e-4 * (600 / 3600 / 2 + 0.5), rel=0.01)
    assert preemption_overhead([rare], [stage_time(1000.0)], 0.0, 0.5) == 0.0


def test_preemptions_follow_dalys_model_when_they_are_frequent() -> None:
    rate, restart, interval = 2.0, 0.25, 600 / 3600
    expected = math.exp(rate * restart) * math.expm1(rate * interval) / (rate * interval) - 1
    found = preemption_overhead([stage(SMALL)], [stage_time(1000.0)], rate, restart)
    assert found == pytest.approx(expected)


def test_a_short_stage_writes_its_checkpoints_by_share() -> None:
    short = stage(SMALL)  # every tenth of the stage is more often than every 600 s here
    expected = math.expm1(1.0 * 0.1 * 102 / 102.4) / (0.1 * 102 / 102.4) - 1
    assert preemption_overhead([short], [stage_time(1.0)], 1.0, 0.0) == pytest.approx(expected, rel=0.01)


def test_reservations_bind_for_their_whole_term() -> None:
    assert committed_usd(offer(usd_per_hour=2.0), 3) == 0
    assert committed_usd(offer(usd_per_hour=2.0, variant="reserved-1y"), 3) == 2 * 3 * 8760
    assert committed_usd(offer(usd_per_hour=2.0, variant="reserved-3y"), 1) == 2 * 3 * 8760
