"""What formulas can ask of the risk simulation: the chance that a founding budget suffices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

from infra.errors import ConfigurationError
from tasks.audit.spans import Number
from tasks.risk import TierFinding, check_tiers, spot_interruptions

#: One standard error is below 0.36 points, and the whole audit takes seconds.
DRAWS, SEED = 20_000, 0
#: Assumptions for the tier on spot machines: a checkpoint every ten minutes (the trainer's default), a quarter of an
#: hour until training goes on, an hour until there is a machine again.
CHECKPOINT_INTERVAL_HOURS, RESTART_HOURS, WAIT_HOURS = 1 / 6, 0.25, 1.0


class Chances:
    """The simulated chances of the three budgets; simulated once, when first asked for."""

    def __init__(self, flops_hours_by_stage: Callable[[], Mapping[str, float]], preemptions_per_hour: float) -> None:
        self._hours = flops_hours_by_stage
        self._preemptions_per_hour = preemptions_per_hour

    def chance_percent(self, tier: str, basis: str) -> Number:
        """Percent of 20,000 simulated projects whose cost stays within a founding budget (tasks/risk, seed 0)"""
        for finding in self._findings:
            if (finding.tier.name, finding.basis) == (tier, basis):
                return round(100 * finding.chance.probability, 1)
        raise ConfigurationError(f"no tier '{tier}' on the basis '{basis}'.", "see tasks/risk/seed_tiers.py.")

    @cached_property
    def _findings(self) -> tuple[TierFinding, ...]:
        spot = spot_interruptions(
            self._preemptions_per_hour,
            1,
            checkpoint_interval_hours=CHECKPOINT_INTERVAL_HOURS,
            restart_hours=RESTART_HOURS,
            checkpoint_write_hours=0.0,  # it is written beside the training (docs/benchmarks.md)
            wait_hours=WAIT_HOURS,
        )
        return check_tiers(self._hours(), spot, draws=DRAWS, seed=SEED)
