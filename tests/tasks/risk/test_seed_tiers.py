"""The founding budgets: the report's own risk table against its claims, by hand and by simulation."""

from __future__ import annotations

from itertools import product

import pytest
from closed_forms import assert_share

from infra.errors import ConfigurationError
from tasks.risk import SEED_EVENTS, SEED_TIERS, check_tiers, simulate, spot_interruptions
from tasks.risk.seed_tiers import BUFFER_EVENTS, SeedTier, TierFinding, recomputed_model, stated_model

DRAWS = 10_000
SPOT = spot_interruptions(
    0.05, 1, checkpoint_interval_hours=0.5, restart_hours=0.2, checkpoint_write_hours=0.01, wait_hours=0.5
)


@pytest.fixture(scope="module")
def findings() -> dict[tuple[str, str], TierFinding]:
    hours = {"foundation": 918.0, "context-scaling": 400.0, "long-context": 300.0}
    return {(found.tier.name, found.basis): found for found in check_tiers(hours, SPOT, draws=DRAWS)}


def by_hand(tier: SeedTier, failure_usd: float) -> float:
    """Over the eight combinations of the three risks: how likely the buffer holds."""
    inside = 0.0
    for happens in product((0, 1), repeat=3):
        chance = 1.0
        for event, happened in zip(SEED_EVENTS, happens, strict=True):
            chance *= event.probability if happened else 1 - event.probability
        if sum(h * usd for h, usd in zip(happens, (failure_usd, 2000, 3000), strict=True)) <= tier.buffer_usd:
            inside += chance
    return inside


@pytest.mark.parametrize("tier", SEED_TIERS, ids=lambda tier: tier.name)
def test_lines_add_up_to_the_budget(tier: SeedTier) -> None:
    lines = tier.training_usd + tier.development_usd + tier.validation_usd + tier.buffer_usd
    assert lines == tier.budget_usd


@pytest.mark.parametrize("tier", SEED_TIERS, ids=lambda tier: tier.name)
def test_by_the_reports_own_risks_every_tier_holds_in_four_cases_of_five(
    tier: SeedTier, findings: dict[tuple[str, str], TierFinding]
) -> None:
    exact = by_hand(tier, 0.5 * tier.training_usd)
    assert exact == pytest.approx(0.8)  # no buffer pays for half the training once more
    assert_share(findings[tier.name, "stated"].chance.probability, DRAWS, exact)


def test_at_the_named_buffers_the_claims_are_too_low(findings: dict[tuple[str, str], TierFinding]) -> None:
    aggressive, conservative, enterprise = SEED_TIERS
    exact = by_hand(aggressive, 5000)
    assert exact == pytest.approx(0.8 + 0.2 * 0.9 * 0.85)
    assert_share(findings["aggressive", "buffers"].chance.probability, DRAWS, exact)
    assert [event.usd.mean for event in BUFFER_EVENTS] == [5000, 2000, 3000]
    for tier in (conservative, enterprise):
        assert by_hand(tier, 5000) == pytest.approx(1)
        assert findings[tier.name, "buffers"].chance.probability == 1


def test_more_hours_cost_more_and_hold_less(findings: dict[tuple[str, str], TierFinding]) -> None:
    for tier in SEED_TIERS:
        few, many = findings[tier.name, "gpu-hours"], findings[tier.name, "flops"]
        assert few.training_hours == pytest.approx(437.5)
        assert few.mean_usd < many.mean_usd
        assert few.chance.probability >= many.chance.probability


def test_what_a_tier_rents_sets_its_price() -> None:
    aggressive, conservative, enterprise = SEED_TIERS
    hours = {"training": 100.0}
    assert recomputed_model(aggressive, hours, spot=SPOT).paid_usd_per_hour == pytest.approx(4.8)
    assert recomputed_model(conservative, hours).paid_usd_per_hour == 12
    assert recomputed_model(enterprise, hours, reserved_discount=0.4).paid_usd_per_hour == pytest.approx(32.77 * 0.6)
    assert recomputed_model(conservative, hours, spot=SPOT).interruptions is None
    with pytest.raises(ConfigurationError, match="rents spot"):
        recomputed_model(aggressive, hours)


def test_stated_lines_cost_what_they_say_when_nothing_happens() -> None:
    calm = stated_model(SEED_TIERS[1]).model_copy(update={"events": ()})
    assert simulate(calm, 10).cost_usd.mean == pytest.approx(55_000)
