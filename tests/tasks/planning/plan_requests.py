"""Small requests and catalogs that the planner's tests share."""

from __future__ import annotations

from datetime import date
from typing import Any

from infra.budget import GpuKind, Offer, PriceCatalog, ProviderRates, SpotPreemptions
from model import ModelConfig, preset
from tasks.planning import CorpusFacts, PlanRequest
from tasks.training import CurriculumStage, TrainingConfig, TrainingStageConfig

DAY = date(2026, 11, 1)


def stage(
    model: ModelConfig, *, ranks: int = 8, context: int = 2048, tokens: int = 1 << 30, **fields: Any
) -> TrainingStageConfig:
    """A stage in bf16 with ZeRO-2; `fields` of `CurriculumStage` go before."""
    curriculum = CurriculumStage(
        **{"name": "pretraining", "context_tokens": context, "tokens": tokens, "batch_tokens": 1 << 20,
           "learning_rate": 1e-4} | fields
    )  # fmt: skip
    return curriculum.resolve(TrainingConfig(ranks=ranks, precision="bf16", zero_stage=2), model)


def request(
    model: str = "small", *, stages: tuple[TrainingStageConfig, ...] | None = None, **fields: Any
) -> PlanRequest:
    """A request for a preset, one stage on eight GPUs unless said otherwise."""
    config = preset(model)
    stages = stages or (stage(config),)
    corpus = CorpusFacts(fetched_bytes=1e10, source="a test")
    return PlanRequest(
        **{"profile": "test", "model": stages[0].model, "stages": stages, "corpus": corpus} | fields
    )  # fmt: skip


def offer(instance: str = "box", usd_per_hour: float = 10.0, **fields: Any) -> Offer:
    """Eight GPUs of 80 GB, connected to others."""
    return Offer(
        **{
            "provider": "own", "instance": instance, "gpu": "big", "gpus": 8, "gpu_memory_gb": 80,
            "variant": "on-demand", "usd_per_hour": usd_per_hour, "peak_bf16_teraflops": 312,
            "peak_fp32_teraflops": 19.5, "memory_bandwidth_gb_per_second": 2000, "cpu_memory_gb": 1000,
            "network_gigabits_per_second": 1600, "default_mfu": 0.4, "as_of": DAY, "source": "a test",
        }
        | fields
    )  # fmt: skip


def catalog(*offers: Offer) -> PriceCatalog:
    """The offers, all of one provider."""
    kind = GpuKind(
        title="Big", memory_gb=80, peak_bf16_teraflops=312, peak_fp32_teraflops=19.5,
        memory_bandwidth_gb_per_second=2000, default_mfu=0.4, mfu_source="a test", source="a test",
    )  # fmt: skip
    rates = ProviderRates(
        storage_usd_per_gb_month=0.02, egress_usd_per_gb=0.1, cpu_core_usd_per_hour=0.05, as_of=DAY, source="a test"
    )
    return PriceCatalog(
        as_of=DAY, spot_preemptions=SpotPreemptions(per_hour=0.05, source="a test"), gpus={"big": kind},
        providers={"own": rates}, offers=offers,
    )  # fmt: skip
