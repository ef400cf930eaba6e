"""What a run costs: prices, a catalog of machines to rent, and the append-only ledger.

Public surface: `Ledger`, `Attempt`, `OpenAttempt`, `Outcome`, `SpendRow`, `spend_rows`, `SPEND_KEYS`, `ComputePrice`;
`load_catalog`, `PriceCatalog`, `Offer` (with `GpuKind`, `ProviderRates`, `SpotPreemptions`, `Variant`).
"""

from infra.budget.catalog import GpuKind, Offer, PriceCatalog, ProviderRates, SpotPreemptions, Variant
from infra.budget.catalog_file import load_catalog
from infra.budget.ledger import Ledger
from infra.budget.ledger_attempt import Attempt, OpenAttempt, Outcome
from infra.budget.ledger_totals import SPEND_KEYS, SpendRow, spend_rows
from infra.budget.prices import ComputePrice

__all__ = [
    "SPEND_KEYS",
    "Attempt",
    "ComputePrice",
    "GpuKind",
    "Ledger",
    "Offer",
    "OpenAttempt",
    "Outcome",
    "PriceCatalog",
    "ProviderRates",
    "SpendRow",
    "SpotPreemptions",
    "Variant",
    "load_catalog",
    "spend_rows",
]
