"""What a profile asks a budget plan for: its model, curriculum and data, and what was measured of this machine."""

from __future__ import annotations

from pathlib import Path

from flows.configuration import PipelineConfig
from tasks.calibration import Calibration, CalibrationStore, Setup
from tasks.download.mixture import plan_mixture
from tasks.planning import Assumptions, CorpusFacts, Machine, MeasuredRate, PlanRequest
from tasks.training import TrainingStageConfig

_FROM_CURRICULUM = (
    "assumption: the profile has no download.mixture, so as much text as makes every training token new, of which "
    "filters and deduplication keep half"
)


def plan_request(
    config: PipelineConfig,
    *,
    assumptions: Assumptions | None = None,
    budget_usd: float | None = None,
    deadline_hours: float | None = None,
    calibrations: Path | None = None,
) -> PlanRequest:
    """The request for a plan of this profile.

    budget_usd: left out, the profile's own ceiling. calibrations: the directory where calibrations are kept; one of
    exactly this model and setup on the machine at hand becomes a machine beside the offers. Raises ConfigurationError
    for a mixture that cannot be had and for a calibration that cannot be read.
    """
    stages = tuple(config.training_stages())
    return PlanRequest(
        profile=config.profile,
        model=config.model,
        stages=stages,
        corpus=corpus_facts(config),
        assumptions=assumptions or Assumptions(),
        machine=None if calibrations is None else _calibrated_machine(config, stages, calibrations),
        deadline_hours=deadline_hours,
        budget_usd=config.budget.ceiling_usd if budget_usd is None else budget_usd,
    )


def corpus_facts(config: PipelineConfig) -> CorpusFacts:
    """How much text the profile reads: what its mixture plans to fetch, else enough for one pass over new text."""
    mixture = config.download.mixture
    if mixture is None:
        tokens = sum(stage.steps * stage.batch_tokens for stage in config.training_stages())
        assumed = CorpusFacts(fetched_bytes=0, source=_FROM_CURRICULUM)
        return assumed.model_copy(update={"fetched_bytes": tokens * assumed.bytes_per_token / assumed.kept_share})
    planned = plan_mixture(config.download.sources, mixture)
    fetched = sum(entry.estimated_bytes for entry in planned)
    kept = sum(entry.estimated_bytes * mixture.kept_shares.get(entry.source.name, mixture.kept_share)
               for entry in planned)  # fmt: skip
    return CorpusFacts(
        fetched_bytes=fetched,
        kept_share=kept / fetched,
        bytes_per_token=mixture.bytes_per_token,
        source=f"download.mixture of the profile: {len(planned)} sources, {mixture.tokens / 1e9:,.4g}B training tokens",
    )


def _calibrated_machine(
    config: PipelineConfig, stages: tuple[TrainingStageConfig, ...], directory: Path
) -> Machine | None:
    calibration = CalibrationStore(directory).find(config.model, Setup.of(stages[0]))
    if calibration is None:
        return None
    return Machine(
        name=f"this machine ({config.budget.price.provider})",
        usd_per_hour=config.budget.price.usd_per_hour,
        rates=tuple(_rate(stage, calibration) for stage in stages),
        relative_error=max(calibration.relative_error_of(stage) for stage in stages),
        source=f"{calibration.basis(stages[0])}; {config.budget.price.note}",
    )


def _rate(stage: TrainingStageConfig, calibration: Calibration) -> MeasuredRate:
    """Tokens a second over the whole stage: its start, validations and checkpoints are in the time."""
    tokens = stage.steps * stage.batch_tokens
    return MeasuredRate(
        stage=stage.name,
        context_tokens=stage.context_tokens,
        tokens_per_second=tokens / calibration.stage_seconds(stage),
    )
