"""The plan: what is trained, what it needs, and what every offer takes for it. All of it is JSON both ways."""

from __future__ import annotations

from datetime import date
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

from infra.budget import Offer
from tasks.planning.request import PlanRequest


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # totals are written too, and not read back


class ParameterTable(_Part):
    """Parameters by component, counted from the model built without memory (torch's meta device)."""

    embedding: int
    mixers: dict[str, int] = Field(description="by kind of mixer, all its layers together")
    feed_forward: int
    norms: int
    lower_bounds: int
    head: int = Field(description="0 when the embedding is used again")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        """All parameters."""
        return (
            self.embedding + sum(self.mixers.values()) + self.feed_forward + self.norms + self.lower_bounds + self.head
        )


class StageFlops(_Part):
    """FLOPs of one curriculum stage. Per token: forward and backward, without recomputation."""

    stage: str
    context_tokens: int
    tokens: int = Field(description="in whole updates")
    projections: dict[str, float] = Field(description="a token, mixers' matrix products by kind")
    linear_mixing: dict[str, float] = Field(description="a token, recurrent mixers' work between tokens by kind")
    attention_quadratic: float = Field(description="a token, attention's scores and weighted sums: grows with context")
    feed_forward: float = Field(description="a token")
    head: float = Field(description="a token")
    recomputed: float = Field(description="a token, done again in the backward pass")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def per_token(self) -> float:
        """Model FLOPs a token."""
        mixing = sum(self.linear_mixing.values()) + self.attention_quadratic
        return sum(self.projections.values()) + mixing + self.feed_forward + self.head

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> float:
        """Model FLOPs of the stage."""
        return self.per_token * self.tokens

    @computed_field  # type: ignore[prop-decorator]
    @property
    def hardware_total(self) -> float:
        """FLOPs that the GPUs do, recomputation included."""
        return (self.per_token + self.recomputed) * self.tokens


class MemoryRow(_Part):
    """One way to place one stage on GPUs, and the bytes of its fullest GPU."""

    stage: str
    context_tokens: int
    ranks: int
    zero_stage: int
    micro_batch: int
    sequence_parallel: int
    gradient_checkpointing: bool
    offload_activations: bool
    offload_optimizer: bool
    offload_parameters: bool
    feed_forward_chunk_tokens: int | None
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int = Field(description="fp32 weights and AdamW's moments")
    buffers_bytes: int = Field(description="communication")
    activations_bytes: int = Field(description="kept for the backward pass, and the fullest phase's working memory")
    cpu_bytes: int = Field(description="of the processor's memory, all ranks together")
    largest_contexts: dict[str, int] = Field(
        {}, description="longest context that fits so placed, by GB of the GPU; asked for one row at a time only"
    )
    slowdown: float = Field(description="time added by this placement, as a share of the bare computation's")
    is_profile: bool = Field(False, description="this is the profile's own placement")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def states_bytes(self) -> int:
        """Weights, gradients and optimiser of the fullest GPU."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total_bytes(self) -> int:
        """Everything on the fullest GPU."""
        return self.states_bytes + self.buffers_bytes + self.activations_bytes


class StageTime(_Part):
    """How long one stage takes on an option."""

    stage: str
    hours: float = Field(description="wall clock, without preemptions")
    gpu_hours: float = Field(description="of the GPUs that are paid for")
    tokens_per_second: float = Field(description="of all GPUs together")
    mfu: float | None = Field(description="model FLOPs over the peak of the GPUs that work; None on a measured machine")
    slowdown: float = Field(description="time added by the placement beyond what the assumed MFU includes, as a share")
    placement: MemoryRow | None = Field(description="how the stage is placed; None on a machine that was measured")


class CostLines(_Part):
    """Dollars, by what they are for."""

    compute_usd: float = Field(description="training alone, without interruptions")
    preemptions_usd: float = Field(description="work done again and restarts, on spot")
    evaluation_usd: float
    quantization_usd: float
    preprocessing_usd: float
    storage_usd: float
    transfer_usd: float
    contingency_usd: float

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total_usd(self) -> float:
        """Everything."""
        return (
            self.compute_usd + self.preemptions_usd + self.evaluation_usd + self.quantization_usd
            + self.preprocessing_usd + self.storage_usd + self.transfer_usd + self.contingency_usd
        )  # fmt: skip


class Option(_Part):
    """One offer, so many instances of it, and what the whole pipeline takes there."""

    name: str = Field(description="offer and number of instances; unique in a plan")
    offer: Offer | None = Field(description="None: the machine that was measured")
    instances: int
    gpus: int = Field(description="that are paid for")
    ranks: int = Field(description="that work")
    fits: bool = Field(description="whether every stage fits the GPUs' memory")
    placed_as: Literal["profile", "replaced", "measured", "nowhere"] = Field(
        description="profile: as the profile says; replaced: some stage had to be placed otherwise; nowhere: no fit"
    )
    stages: tuple[StageTime, ...] = Field(description="empty when it does not fit")
    training_hours: float = Field(description="wall clock, preemptions included")
    gpu_hours: float = Field(description="of the GPUs that are paid for, preemptions included")
    preemption_overhead: float = Field(description="expected added time as a share, on spot; 0 otherwise")
    cost: CostLines | None = Field(description="None when it does not fit")
    committed_usd: float = Field(0.0, description="that a reservation's whole term takes, used or not; 0 otherwise")
    notes: tuple[str, ...] = Field((), description="what to know: idle GPUs, other placements, why nothing fits")

    @property
    def is_usable(self) -> bool:
        """Whether it fits, binds to nothing beyond the hours used, and has a price that is not kept for comparison."""
        return self.cost is not None and not self.committed_usd and (self.offer is None or not self.offer.edition)

    @property
    def usd(self) -> float:
        """The whole pipeline; infinite when it does not fit."""
        return float("inf") if self.cost is None else self.cost.total_usd


class Rejection(_Part):
    """Why an option is out."""

    option: str
    reasons: tuple[str, ...]


class Remedy(_Part):
    """What would meet the budget or the deadline when nothing does."""

    kind: Literal["tokens", "model", "budget", "deadline", "mfu"]
    text: str
    value: float = Field(description="tokens, parameters, USD, hours or MFU")


class CorpusPlan(_Part):
    """What preparing and keeping the data takes, before any provider's price."""

    fetched_bytes: float
    kept_bytes: float
    token_bytes: float = Field(description="of the token shards")
    core_hours: dict[str, float] = Field(description="by data stage, from this project's measured rates")
    checkpoint_bytes: int = Field(description="one checkpoint: fp32 weights and the optimiser's moments")
    checkpoints_kept: int = Field(description="at the most, while training and after, all stages")
    stored_bytes: float = Field(description="text, tokens, checkpoints and formats together")
    released_bytes: float = Field(description="the finished model and its formats, once")
    rates_source: str


class BudgetPlan(_Part):
    """The whole answer. Options are sorted: those that fit by cost, then those that do not."""

    request: PlanRequest
    made_on: date
    catalog_as_of: date
    parameters: ParameterTable
    flops: tuple[StageFlops, ...]
    memory: tuple[MemoryRow, ...] = Field(description="the grid: every stage by placement")
    corpus: CorpusPlan
    options: tuple[Option, ...]
    rejections: tuple[Rejection, ...] = Field(description="options that miss memory, deadline, budget, or bind")
    remedies: tuple[Remedy, ...] = Field(description="empty when an option is within budget and deadline")
    warnings: tuple[str, ...] = Field(description="old prices, assumptions that matter")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total_flops(self) -> float:
        """Model FLOPs of the curriculum."""
        return sum(stage.total for stage in self.flops)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def hardware_flops(self) -> float:
        """FLOPs with recomputation as the profile has it."""
        return sum(stage.hardware_total for stage in self.flops)

    def option(self, name: str) -> Option:
        """The option of this name; raises KeyError."""
        return {option.name: option for option in self.options}[name]

    def usable(self) -> tuple[Option, ...]:
        """Options that fit, bind to nothing beyond the hours used and have today's price, the cheapest first."""
        return tuple(option for option in self.options if option.is_usable)

    def cheapest_by(self, deadline_hours: float) -> Option | None:
        """The cheapest usable option whose training ends within so many hours."""
        return min(
            (option for option in self.usable() if option.training_hours <= deadline_hours),
            key=lambda option: (option.usd, option.training_hours, option.name), default=None,
        )  # fmt: skip

    def fastest_within(self, budget_usd: float) -> Option | None:
        """The soonest finished usable option that costs no more than so much."""
        return min(
            (option for option in self.usable() if option.usd <= budget_usd),
            key=lambda option: (option.training_hours, option.usd, option.name), default=None,
        )  # fmt: skip
