"""The founding ladder of model sizes in tables: what was said of each size, and what it comes to."""

from __future__ import annotations

from collections.abc import Sequence

from infra.budget import PriceCatalog
from tasks.planning.ladder import DEFAULT_MFU, FOUNDING_BATCH, FOUNDING_LADDER, FoundingRung, LadderRung, TokenBudget
from tasks.planning.presentation.cost_tables import hour_count, money
from tasks.planning.presentation.report_table import ReportTable
from tasks.reporting.formatting import count

_GB = 1e9
_SAID = {rung.name: rung for rung in FOUNDING_LADDER}


def ladder_tables(
    rungs: Sequence[LadderRung], catalog: PriceCatalog, mfu: float = DEFAULT_MFU
) -> tuple[ReportTable, ...]:
    """Training, and memory with generating; at today's cheapest price on demand, founding prices left out."""
    today = [offer.name for offer in catalog.offers if not offer.edition]
    return _training_table(rungs, today, mfu), _use_table(rungs, today)


def _training_table(rungs: Sequence[LadderRung], today: Sequence[str], mfu: float) -> ReportTable:
    rows = []
    for rung in rungs:
        said = _SAID[rung.name]
        rows.append(
            (
                rung.name,
                count(rung.parameters),
                count(rung.samples.tokens),
                f"{said.gpu_hours:,.0f}",
                hour_count(rung.samples.a100_hours),
                _said_usd(said),
                _cheapest(rung.samples, today),
                count(rung.compute_optimal.tokens),
                hour_count(rung.compute_optimal.a100_hours),
                _cheapest(rung.compute_optimal, today),
            )
        )
    return ReportTable(
        key="ladder",
        title="The ladder of sizes: A100 hours and dollars to train, as once said and as computed",
        columns=("size", "parameters", "tokens", "h said", "h", "USD said", "USD", "20 a parameter", "h ", "USD "),
        rows=tuple(rows),
        note=f"tokens: the founding samples, a row of 2,048 each; 20 a parameter: Hoffmann et al. 2022. At an MFU of "
        f"{mfu:.0%} and today's cheapest A100 on demand, GPU time alone.",
    )


def _use_table(rungs: Sequence[LadderRung], today: Sequence[str]) -> ReportTable:
    rows = []
    for rung in rungs:
        said, memory = _SAID[rung.name], rung.memory
        rows.append(
            (
                rung.name,
                f"{said.total_bytes / _GB:,.3g}",
                f"{memory.total_bytes / _GB:,.3g}",
                f"{memory.recomputed_total_bytes / _GB:,.3g}",
                f"{memory.rows_that_fit:,}",
                f"{memory.rows_that_fit_recomputed:,}",
                "–" if said.inference_usd_per_million_tokens is None
                else f"${said.inference_usd_per_million_tokens:.2f}",
                _decoding(rung, today),
            )
        )  # fmt: skip
    return ReportTable(
        key="ladder-use",
        title="The ladder of sizes: memory of one GPU, and what a million generated tokens cost",
        columns=("size", "GB said", f"GB, {FOUNDING_BATCH} rows", "recomputed", "rows in 80 GB", "recomputed ",
                 "USD/M said", "USD/M generated"),
        rows=tuple(rows),
        note=f"Generating: bf16, {FOUNDING_BATCH} sequences of 2,048 tokens at once, today's cheapest A100 on demand.",
    )  # fmt: skip


def _said_usd(said: FoundingRung) -> str:
    return "–" if said.training_usd is None else money(said.training_usd)


def _cheapest(budget: TokenBudget, today: Sequence[str]) -> str:
    prices = [usd for name, usd in budget.usd.items() if name in today]
    return money(min(prices)) if prices else "–"


def _decoding(rung: LadderRung, today: Sequence[str]) -> str:
    prices = [cost.decode_usd_per_million_tokens for cost in rung.inference if cost.offer in today and cost.fits]
    return money(min(prices)) if prices else "–"
