"""Which options are named: within limits before others, no reservations, no founding prices; the Pareto front."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.planning.plan import Option
from tasks.planning.presentation.choices import best_of_each, choices, missed_limits, pareto_front
from tests.tasks.planning.presentation.plans import small_plan


def test_the_cheapest_is_recommended_without_limits() -> None:
    found = choices(small_plan())
    assert found is not None
    assert found.recommended.name == found.cheapest.name == "own slow spot"
    assert found.fastest.training_hours == min(option.training_hours for option in small_plan().usable())


def test_a_deadline_makes_a_dearer_option_the_recommended_one() -> None:
    slow = small_plan().option("own slow spot").training_hours
    found = choices(small_plan(deadline_hours=slow / 2))
    assert found is not None
    assert found.recommended.training_hours <= slow / 2
    assert found.cheapest.usd < found.recommended.usd


def test_when_nothing_keeps_to_both_limits_the_one_that_misses_fewer_is_the_closest() -> None:
    slow = small_plan().option("own slow spot").training_hours
    plan = small_plan(budget_usd=1.0, deadline_hours=slow / 2)
    found = choices(plan)
    assert found is not None
    assert not found.meets_limits
    assert missed_limits(plan, found.recommended) == ("budget",)


def test_reservations_and_founding_prices_are_not_ranked() -> None:
    names = {option.name for option in best_of_each(small_plan())}
    assert not any("reserved" in name or "founding" in name for name in names)
    assert len(names) == 3  # own on demand, own spot, aws on demand


def test_nothing_is_named_when_nothing_fits() -> None:
    assert choices(small_plan(gpu_memory_gb=0.1)) is None


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=30))
def test_the_front_has_exactly_the_options_that_no_other_beats(points: list[tuple[int, int]]) -> None:
    options = [_option(f"option {n}", usd, hours) for n, (usd, hours) in enumerate(points)]
    front = pareto_front(options)
    for option in options:
        beaten = any(
            other.usd <= option.usd
            and other.training_hours <= option.training_hours
            and (other.usd, other.training_hours) != (option.usd, option.training_hours)
            for other in options
        )
        on_front = any((o.usd, o.training_hours) == (option.usd, option.training_hours) for o in front)
        assert on_front is not beaten
    assert [option.usd for option in front] == sorted({option.usd for option in front})


def _option(name: str, usd: float, hours: float) -> Option:
    known = small_plan().usable()[0]
    assert known.cost is not None
    nothing = dict.fromkeys(type(known.cost).model_fields, 0.0)
    cost = known.cost.model_copy(update=nothing | {"compute_usd": float(usd)})
    return known.model_copy(update={"name": name, "cost": cost, "training_hours": float(hours)})
