"""What a run costs: prices, a catalog of machines to rent, and the append-only ledger.

Public surface: `Ledger`, `Attempt`, `SpendRow`, `ComputePrice`, `check_ceiling`; `load_catalog`, `PriceCatalog`,
`Offer` (with `GpuKind`, `ProviderRates`, `Variant`).
"""

from infra.budget.catalog import GpuKind, Offer, PriceCatalog, ProviderRates, Variant, load_catalog
from infra.budget.ceiling import check_ceiling
from infra.budget.ledger import Attempt, Ledger, SpendRow
from infra.budget.prices import ComputePrice

__all__ = [
    "Attempt",
    "ComputePrice",
    "GpuKind",
    "Ledger",
    "Offer",
    "PriceCatalog",
    "ProviderRates",
    "SpendRow",
    "Variant",
    "check_ceiling",
    "load_catalog",
]
