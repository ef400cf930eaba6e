"""A short campaign of each kind: every fault once, and poisoned batches. The long one: `make faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.campaign import FAULTS, Plan, exact_campaign, poison_campaign


@pytest.mark.slow
def test_losses_and_weights_are_those_of_the_undisturbed_run(tmp_path: Path) -> None:
    kinds = tuple(FAULTS)
    plan = Plan(faults=len(kinds), updates=80, kinds=kinds, hang_at_start=False)  # tests/tasks/training has that one
    outcome = exact_campaign(plan, tmp_path, print)
    if "full disk" not in outcome.struck:
        print("full disk: left out, because no small file system can be mounted here")
    assert outcome.differences == []
    assert set(outcome.struck) >= set(kinds) - {"full disk"}
    assert {"dead rank", "stop signal"} <= set(outcome.incidents)


@pytest.mark.slow
def test_poisoned_batches_end_as_their_policy_says(tmp_path: Path) -> None:
    outcome = poison_campaign(Plan(faults=1, updates=70, poisoned=2), tmp_path, print)
    assert outcome.differences == []
    assert outcome.incidents["loss is not a number"] >= 2
    assert outcome.incidents["loss spike"] >= 2
