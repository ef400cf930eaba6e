"""What a run costs: prices and the append-only ledger.

Public surface: `Ledger`, `Attempt`, `SpendRow`, `ComputePrice`, `check_ceiling`.
"""

from infra.budget.ceiling import check_ceiling
from infra.budget.ledger import Attempt, Ledger, SpendRow
from infra.budget.prices import ComputePrice

__all__ = ["Attempt", "ComputePrice", "Ledger", "SpendRow", "check_ceiling"]
