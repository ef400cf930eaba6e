"""The audit's hours against the planner's, which come to them from the profiles."""

from __future__ import annotations

import pytest

from flows.configuration import load_profile
from model import preset
from tasks.audit import Audit, run_audit
from tasks.planning import FOUNDING_LADDER
from tasks.planning.flops import stage_flops
from tasks.planning.ladder import token_budget


@pytest.fixture(scope="module")
def values() -> dict[str, tuple[float, float]]:
    audit: Audit = run_audit()
    return {used.quantity.name: (used.value.low, used.value.high) for used in audit.quantities}


@pytest.mark.parametrize(
    ("quantity", "stages"),
    [("stage_1_flops", "foundation"), ("stage_2_flops", "scaling"), ("stage_3_flops", "long")],
)
def test_the_curriculum_is_the_profiles(values: dict[str, tuple[float, float]], quantity: str, stages: str) -> None:
    planned = [stage_flops(stage) for stage in load_profile("sam2-5.5b").training_stages()]
    total = sum(stage.total for stage in planned if stage.stage.startswith(stages))
    assert values[quantity][0] == pytest.approx(total, rel=1e-3)  # the planner counts whole updates


@pytest.mark.parametrize(
    ("quantity", "size"),
    [("slm_1_hours", "1.3b"), ("slm_3_hours", "2.7b"), ("slm_7_hours", "6.7b"), ("slm_13_hours", "13b")],
)
def test_the_roadmaps_models_train_as_the_profiles_say(
    values: dict[str, tuple[float, float]], quantity: str, size: str
) -> None:
    flops = sum(stage_flops(stage).total for stage in load_profile(f"mamba-slm-{size}").training_stages())
    assert values[quantity][0] == pytest.approx(flops / (0.5 * 312e12) / 3600, rel=1e-3)


def test_the_ladder_is_the_planners(values: dict[str, tuple[float, float]]) -> None:
    for rung in FOUNDING_LADDER:
        budget = token_budget(preset(rung.preset), rung.samples * 2048, "samples", [], mfu=0.5)
        assert values[f"{rung.preset}_hours"][0] == pytest.approx(budget.a100_hours, rel=1e-6)
