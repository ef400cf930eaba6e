"""Offers as options: how many instances, how they are placed, what is said about it."""

from __future__ import annotations

import pytest

from infra.budget import Offer
from model import preset
from tasks.planning import Assumptions, Option, PlanRequest, plan
from tests.tasks.planning.plan_requests import DAY, catalog, offer, request, stage

XL = preset("xl")


def options_of(asked: PlanRequest, *offers: Offer) -> list[Option]:
    return list(plan(asked, catalog(*offers), today=DAY).options)


def one(asked: PlanRequest, only: Offer) -> Option:
    (found,) = options_of(asked, only)
    return found


ALONE = Assumptions(largest_fleet=1)


def test_an_offer_with_as_many_gpus_as_ranks_is_taken_as_the_profile_is() -> None:
    option = one(request(assumptions=ALONE), offer())
    assert (option.instances, option.gpus, option.ranks, option.placed_as, option.notes) == (1, 8, 8, "profile", ())
    assert option.gpu_hours == pytest.approx(8 * option.training_hours)
    assert option.fits


def test_a_larger_instance_trains_on_all_its_gpus_and_says_so() -> None:
    option = one(request(assumptions=ALONE), offer(gpus=16))
    assert (option.instances, option.ranks) == (1, 16)
    assert "trains on 16 GPUs" in option.notes[0]
    whole = one(request(assumptions=Assumptions(largest_fleet=1, whole_instances=False)), offer(gpus=16))
    assert whole.ranks == 8
    assert "8 of 16 GPUs idle" in whole.notes[0]
    assert whole.training_hours == pytest.approx(2 * option.training_hours, rel=0.01)
    assert whole.usd > 1.5 * option.usd


def test_ranks_that_cannot_share_the_batch_leave_gpus_idle() -> None:
    small = stage(preset("small"), batch_tokens=8 * 2048)
    option = one(request(stages=(small,)), offer(gpus=16))
    assert option.ranks == 8
    assert any("8 of 16 GPUs idle" in note for note in option.notes)


def test_smaller_instances_are_taken_in_whole_numbers_when_they_are_connected() -> None:
    four = one(request(assumptions=ALONE), offer(gpus=2))
    assert (four.instances, four.gpus, four.ranks) == (4, 8, 8)
    assert four.name.startswith("4 x own box")
    apart = one(request(), offer(gpus=2, network_gigabits_per_second=None))
    assert not apart.fits
    assert apart.placed_as == "nowhere"
    assert "not connected" in apart.notes[-1]
    assert apart.usd == float("inf")


def test_connected_instances_are_offered_in_doubling_fleets() -> None:
    found = options_of(request(assumptions=Assumptions(largest_fleet=4)), offer())
    assert sorted(option.ranks for option in found) == [8, 16, 32]
    hours = {option.ranks: option.training_hours for option in found}
    assert hours[8] > hours[16] > hours[32] > hours[8] / 4
    assert len(options_of(request(), offer(network_gigabits_per_second=None))) == 1


def test_a_slow_network_calls_for_other_placements_and_a_very_slow_one_for_one_machine() -> None:
    asked = request(stages=(stage(XL, micro_batch=1),), assumptions=Assumptions(largest_fleet=2))
    single, double = sorted(options_of(asked, offer(network_gigabits_per_second=100)), key=lambda o: o.instances)
    assert single.placed_as == "profile"
    assert double.placed_as == "replaced"
    assert any("to spare the network" in note for note in double.notes)
    placement = double.stages[0].placement
    assert placement is not None
    assert placement.micro_batch > 1
    assert double.training_hours < single.training_hours
    assert len(options_of(asked, offer(network_gigabits_per_second=1))) == 1


def test_what_does_not_fit_takes_the_cheapest_placement_that_does() -> None:
    asked = request(stages=(stage(XL, micro_batch=8),), assumptions=ALONE)
    roomy, tight = one(asked, offer(gpu_memory_gb=141)), one(asked, offer(gpu_memory_gb=40))
    assert roomy.placed_as == "profile"
    assert tight.placed_as == "replaced"
    placement = tight.stages[0].placement
    assert placement is not None
    assert placement.total_bytes <= 40e9
    assert not placement.is_profile
    assert any("to fit 40 GB" in note for note in tight.notes)


def test_what_fits_nowhere_says_what_it_needs() -> None:
    option = one(request(stages=(stage(XL),), assumptions=ALONE), offer(gpu_memory_gb=8, cpu_memory_gb=10))
    assert not option.fits
    assert option.cost is None
    assert "stage 'pretraining' needs" in option.notes[-1]


def test_spot_pays_for_its_interruptions_and_more_instances_for_more_of_them() -> None:
    found = options_of(
        request(assumptions=Assumptions(largest_fleet=2)),
        offer(variant="spot", usd_per_hour=4.0, preemptions_per_hour=0.1),
    )
    single, double = sorted(found, key=lambda option: option.instances)
    assert 0 < single.preemption_overhead < double.preemption_overhead
    assert single.cost is not None
    assert single.cost.preemptions_usd == pytest.approx(single.cost.compute_usd * single.preemption_overhead)
    assert single.training_hours == pytest.approx(
        sum(time.hours for time in single.stages) * (1 + single.preemption_overhead)
    )


def test_reservations_are_usable_when_they_are_there_anyway() -> None:
    reserved = offer(variant="reserved-1y")
    bound = one(request(assumptions=ALONE), reserved)
    assert bound.committed_usd == pytest.approx(8760 * 10)
    assert not bound.is_usable
    free = one(request(assumptions=Assumptions(largest_fleet=1, has_reservations=True)), reserved)
    assert free.is_usable


def test_a_derived_price_says_so() -> None:
    option = one(request(assumptions=ALONE), offer(derived=True, source="60% below 10 USD on demand: a rule"))
    assert option.notes == ("price not published, 60% below 10 USD on demand: a rule",)


def test_a_founding_price_is_shown_and_not_recommended() -> None:
    found = plan(request(assumptions=ALONE), catalog(offer(edition="founding", usd_per_hour=1.0), offer()), today=DAY)
    assert [option.is_usable for option in found.options] == [False, True]
    assert found.options[0].usd < found.options[1].usd
    assert "kept for comparison" in found.rejections[0].reasons[0]
