"""The ladder of model sizes, from a first debugging run to three billion parameters: what each step costs."""

from __future__ import annotations

from dataclasses import dataclass

from infra.budget import PriceCatalog
from model import ModelConfig, preset
from tasks.planning.plan import BudgetPlan, Option
from tasks.planning.planner import plan
from tasks.planning.presentation.choices import choices
from tasks.planning.presentation.cost_tables import hour_count, money, wall_clock
from tasks.planning.presentation.report_table import ReportTable
from tasks.planning.request import Assumptions, CorpusFacts, PlanRequest
from tasks.reporting.formatting import count
from tasks.training import TrainingStageConfig

#: Samples of 2,048 tokens by size: the founding scaling estimates ("Scaling Table"). The presets have these sizes.
FOUNDING_SAMPLES = {
    "tiny": 1_000_000,
    "small": 10_000_000,
    "medium": 50_000_000,
    "large": 100_000_000,
    "xl": 300_000_000,
}
CONTEXT_TOKENS = 2048
#: Rows of an update: 32 on each of eight GPUs, as the founding estimates have it.
_RANKS, _ROWS = 8, 256
_LEARNING_RATE = 3e-4  # no figure of a plan depends on it


@dataclass(frozen=True)
class Rung:
    """One size, planned; `option` is the recommended one, None where nothing fits."""

    name: str
    plan: BudgetPlan
    option: Option | None


def ladder(catalog: PriceCatalog, assumptions: Assumptions | None = None) -> list[Rung]:
    """Every size on the catalog's offers, the smallest first."""
    rungs = []
    for name, samples in FOUNDING_SAMPLES.items():
        made = plan(_request(name, preset(name), samples, assumptions or Assumptions()), catalog)
        named = choices(made)
        rungs.append(Rung(name, made, None if named is None else named.recommended))
    return rungs


def _request(name: str, model: ModelConfig, samples: int, assumptions: Assumptions) -> PlanRequest:
    stage = TrainingStageConfig(
        name=name,
        model=model,
        context_tokens=CONTEXT_TOKENS,
        tokens=samples * CONTEXT_TOKENS,
        batch_tokens=_ROWS * CONTEXT_TOKENS,
        learning_rate=_LEARNING_RATE,
        ranks=_RANKS,
        precision="bf16",
        zero_stage=1,
    )
    facts = CorpusFacts(fetched_bytes=0, source="founding scaling estimates: every sample is new text")
    facts = facts.model_copy(update={"fetched_bytes": stage.tokens * facts.bytes_per_token / facts.kept_share})
    return PlanRequest(profile=f"ladder {name}", model=model, stages=(stage,), corpus=facts, assumptions=assumptions)


def ladder_table(rungs: list[Rung]) -> ReportTable:
    """A row for each size."""
    rows = []
    for rung in rungs:
        option = rung.option
        rows.append(
            (
                rung.name,
                "nothing fits" if option is None else option.name,
                count(rung.plan.parameters.total),
                count(rung.plan.request.training_tokens),
                f"{rung.plan.total_flops:.2e}",
                "–" if option is None else hour_count(option.gpu_hours),
                "–" if option is None else wall_clock(option.training_hours),
                "–" if option is None else money(option.usd),
            )
        )
    return ReportTable(
        key="ladder",
        title="The ladder of sizes, each on its cheapest option",
        columns=("size", "option", "parameters", "tokens", "FLOPs", "GPU hours", "time", "all in USD"),
        rows=tuple(rows),
        note=f"On the samples of the founding estimates, {CONTEXT_TOKENS:,} tokens each. Models this small reach the "
        "utilisation assumed only with large batches.",
        words=("option",),
    )
