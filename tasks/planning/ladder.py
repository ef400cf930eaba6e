"""The founding ladder of five model sizes, recomputed: what each takes, beside what was written down.

The founding estimates count "training samples". A sample is read here as one row of 2,048 tokens, the context they
state; beside it stands the 20 tokens a parameter of Hoffmann et al. (2022, "Training Compute-Optimal Large Language
Models"). Hours are those of A100s at a stated MFU; memory is that of one GPU in bf16 with AdamW, at their batch of 32
rows and at what fits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, Field

from infra.budget import Offer, PriceCatalog
from model import ModelConfig, preset
from model.sizing import TrainingPlacement, gpu_training_memory, training_flops_per_token
from tasks.planning.inference import InferenceCost, inference_cost
from tasks.planning.parameters import count_parameters

ROW_TOKENS = 2048
FOUNDING_BATCH = 32
TOKENS_PER_PARAMETER = 20
A100_FLOPS_PER_SECOND = 312e12
DEFAULT_MFU = 0.40
_A100_BYTES = 80e9
_A100_KINDS = ("a100-40gb", "a100-80gb")


@dataclass(frozen=True)
class FoundingRung:
    """One line of the founding estimates ("Model Scaling Estimates"); None where it states nothing."""

    name: str
    preset: str
    parameters: float
    samples: float
    gpu_hours: float
    model_bytes: float
    activation_bytes: float
    total_bytes: float
    training_usd: float | None
    inference_usd_per_million_tokens: float | None


FOUNDING_LADDER = (
    FoundingRung("Tiny", "tiny", 10e6, 1e6, 10, 40e6, 2e9, 3e9, None, None),
    FoundingRung("Small", "small", 100e6, 10e6, 100, 400e6, 8e9, 10e9, 500, 0.01),
    FoundingRung("Medium", "medium", 500e6, 50e6, 500, 2e9, 20e9, 24e9, 2500, 0.05),
    FoundingRung("Large", "large", 1e9, 100e6, 1000, 4e9, 40e9, 48e9, 10_000, 0.10),
    FoundingRung("XL", "xl", 3e9, 300e6, 3000, 12e9, 60e9, 80e9, 30_000, 0.30),
)


class TokenBudget(BaseModel):
    """Training one rung on so many tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    reading: str = Field(description="what the number of tokens follows from")
    tokens: float
    flops: float
    a100_hours: float = Field(description="GPU-hours at the ladder's MFU")
    usd: dict[str, float] = Field(description="at each on-demand offer of A100s, GPUs priced singly")


class RungMemory(BaseModel):
    """Memory of one GPU that trains one rung in bf16 with AdamW, rows of 2,048 tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    weights_fp32_bytes: int = Field(description="4 bytes a parameter, which is what the founding table calls model")
    states_bytes: int = Field(description="weights, gradients and optimiser")
    activations_bytes: int = Field(description="of 32 rows, nothing recomputed, working memory included")
    total_bytes: int
    recomputed_total_bytes: int = Field(description="of 32 rows, blocks recomputed")
    rows_that_fit: int = Field(description="in 80 GB, nothing recomputed; 0: not one")
    rows_that_fit_recomputed: int = Field(description="in 80 GB, blocks recomputed")


class LadderRung(BaseModel):
    """One model of the ladder, recomputed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    preset: str
    parameters: int
    samples: TokenBudget
    compute_optimal: TokenBudget
    memory: RungMemory
    inference: tuple[InferenceCost, ...] = Field(description="bf16, 32 sequences of 2,048 tokens, by on-demand offer")


def ladder(catalog: PriceCatalog, *, mfu: float = DEFAULT_MFU) -> tuple[LadderRung, ...]:
    """The five rungs at a catalog's on-demand prices of A100s."""
    offers = [offer for offer in catalog.offers if offer.gpu in _A100_KINDS and offer.variant == "on-demand"]
    return tuple(_rung(founding, offers, mfu) for founding in FOUNDING_LADDER)


def _rung(founding: FoundingRung, offers: list[Offer], mfu: float) -> LadderRung:
    config = preset(founding.preset)
    parameters = count_parameters(config).total
    samples, optimal = founding.samples * ROW_TOKENS, float(TOKENS_PER_PARAMETER * parameters)
    reading = f"{founding.samples:,.0f} samples, a row of {ROW_TOKENS:,} tokens each"
    return LadderRung(
        name=founding.name,
        preset=founding.preset,
        parameters=parameters,
        samples=token_budget(config, samples, reading, offers, mfu),
        compute_optimal=token_budget(config, optimal, f"{TOKENS_PER_PARAMETER} tokens a parameter", offers, mfu),
        memory=rung_memory(config),
        inference=tuple(inference_cost(config, offer, batch=FOUNDING_BATCH, mfu=mfu) for offer in offers),
    )


def token_budget(config: ModelConfig, tokens: float, reading: str, offers: list[Offer], mfu: float) -> TokenBudget:
    """FLOPs, A100-hours and dollars of training on so many tokens in rows of 2,048."""
    flops = tokens * training_flops_per_token(config, ROW_TOKENS).total
    hours = flops / (mfu * A100_FLOPS_PER_SECOND) / 3600
    return TokenBudget(
        reading=reading,
        tokens=tokens,
        flops=flops,
        a100_hours=hours,
        usd={offer.name: hours * offer.usd_per_gpu_hour for offer in offers},
    )


def rung_memory(config: ModelConfig) -> RungMemory:
    """Memory at the founding batch, and the rows that fit 80 GB."""
    plain = TrainingPlacement(ranks=1, zero_stage=1, micro_batch=FOUNDING_BATCH)
    recomputed = replace(plain, gradient_checkpointing=True)
    memory = gpu_training_memory(config, ROW_TOKENS, plain)
    states = memory.weights + memory.gradients + memory.master_weights + memory.moments
    return RungMemory(
        weights_fp32_bytes=4 * count_parameters(config).total,
        states_bytes=states,
        activations_bytes=memory.kept + memory.working,
        total_bytes=memory.total,
        recomputed_total_bytes=gpu_training_memory(config, ROW_TOKENS, recomputed).total,
        rows_that_fit=_rows_that_fit(config, plain),
        rows_that_fit_recomputed=_rows_that_fit(config, recomputed),
    )


def _rows_that_fit(config: ModelConfig, placement: TrainingPlacement) -> int:
    fits, too_many = 0, 1 << 16
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if gpu_training_memory(config, ROW_TOKENS, replace(placement, micro_batch=middle)).total <= _A100_BYTES:
            fits = middle
        else:
            too_many = middle
    return fits
