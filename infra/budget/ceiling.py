"""The hard ceiling: no stage starts once the profile's money is spent."""

from __future__ import annotations

from infra.budget.ledger import Ledger
from infra.errors import BudgetExceeded


def check_ceiling(ledger: Ledger, profile: str, ceiling_usd: float | None, next_stage: str) -> None:
    """Raise BudgetExceeded when this profile's spend, all runs and attempts together, has reached the ceiling."""
    if ceiling_usd is None:
        return
    spent = ledger.total_usd(profile=profile)
    if spent >= ceiling_usd:
        raise BudgetExceeded(
            f"profile '{profile}' has spent {spent:.4f} USD of its ceiling of {ceiling_usd:.4f} USD; "
            f"stage '{next_stage}' was not started.",
            "raise budget.ceiling_usd; every finished stage is kept and reused.",
        )
