"""What can be chosen about training: one curriculum stage, and what all its stages share."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator

from infra.artifacts import StageConfig, added_argument, run_argument
from model import ModelConfig
from model.sequence_parallel import check_sequence_parallel
from model.sizing import TrainingPlacement
from tasks.training.data_order import MIXTURE_ROUND_ROWS, BatchPlan, Documents, LongDocuments, Packing, Sampler
from tasks.training.policy import RestartPolicy, RollBackPolicy
from tasks.training.profile_steps import parse_steps
from tasks.training.schedule import Cut, ScheduleName, learning_rate_at, planned_updates

#: Tokens a rank runs at once when `micro_batch` is left out.
DEFAULT_MICRO_BATCH_TOKENS = 8192


class CurriculumStage(StageConfig):
    """One stage of the curriculum: how long the rows are, how many tokens, how fast it learns."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="name of the stage, part of its data order's key")
    context_tokens: int = Field(ge=16, description="tokens in a row")
    tokens: int = Field(ge=1, description="tokens to train on; rounded down to whole batches")
    batch_tokens: int = Field(ge=16, description="tokens of one update, all ranks together")
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="rows a rank runs at once; left out: as many as divide the batch and stay within "
        f"{DEFAULT_MICRO_BATCH_TOKENS:,} tokens",
    )
    learning_rate: float = Field(gt=0, description="peak learning rate")
    final_learning_rate: float = Field(0.0, ge=0, description="learning rate of the last update")
    schedule: ScheduleName = Field("cosine", description="shape of the learning rate after the warmup")
    warmup_steps: int | None = Field(None, ge=0, description="updates of linear warmup; overrides warmup_fraction")
    warmup_fraction: float = Field(0.02, ge=0, le=1, description="warmup as a share of the stage's updates")
    decay_fraction: float = Field(
        0.2, gt=0, le=1, description="share of the updates in which warmup_stable_decay falls to the final rate"
    )
    mixture: dict[str, float] | None = Field(
        None, description="weight of each source, by rows; left out: every token once an epoch"
    )
    long_documents: LongDocuments | None = Field(
        None, description="takes a share of each source's rows from its long documents; left out: as they come"
    )
    packing: Packing = Field(
        "stream",
        description="stream: documents one after another, cut where rows end; best_fit: no document that fits into a "
        "row is cut, and rows not quite full are padded",
    )
    continues: str | None = Field(
        None,
        description="an earlier stage of the same context, packing and mixture whose data order goes on here, so that "
        "no token is seen twice before all were seen once; left out: an order of its own",
    )
    repeat: int = Field(
        1, ge=1, description="so many stages like this one after another (name, name-2, ...), each on new data"
    )
    rope_theta: float | None = Field(
        None, gt=1, description="replaces model.rope_theta in this stage; later stages set their own"
    )
    zero_stage: Literal[0, 1, 2, 3] | None = Field(None, description="replaces training.zero_stage in this stage")
    gradient_checkpointing: bool | None = Field(
        None, description="replaces training.gradient_checkpointing in this stage"
    )
    sequence_parallel: int | None = Field(None, ge=1, description="replaces training.sequence_parallel in this stage")
    feed_forward_chunk_tokens: int | None = Field(
        None, ge=1, description="replaces training.feed_forward_chunk_tokens in this stage"
    )
    offload_optimizer: bool | None = Field(None, description="replaces training.offload_optimizer in this stage")
    offload_parameters: bool | None = Field(None, description="replaces training.offload_parameters in this stage")
    offload_activations: bool | None = Field(None, description="replaces training.offload_activations in this stage")

    def resolve(
        self, training: TrainingConfig, model: ModelConfig, *, data_order: str | None = None, first_row: int = 0
    ) -> TrainingStageConfig:
        """Everything this stage's checkpoint depends on, in one configuration.

        `data_order` and `first_row` say what `continues` and `repeat` come to (`place_stages`); the resolved stage has
        neither, so that repeating or continuing a stage leaves its own checkpoint as it is.
        """
        shared = {name: getattr(training, name) for name in TrainingConfig.model_fields}
        own = {name: getattr(self, name) for name in CurriculumStage.model_fields}
        own = {name: value for name, value in own.items() if name not in shared or value is not None}
        own |= {"continues": None, "repeat": 1, "data_order": data_order, "first_row": first_row}
        return TrainingStageConfig(**(shared | own), model=model)

    @field_validator("mixture")
    @classmethod
    def _mixture_has_weight(cls, mixture: dict[str, float] | None) -> dict[str, float] | None:
        if mixture is None:
            return None
        if not mixture or min(mixture.values()) < 0 or sum(mixture.values()) <= 0:
            raise ValueError("weights must not be negative and must not all be 0; leave mixture out to use all data")
        least = min(weight for weight in mixture.values() if weight > 0) / sum(mixture.values())
        if least * MIXTURE_ROUND_ROWS < 1:
            raise ValueError(f"the smallest share is {least:.2g}, below 1/{MIXTURE_ROUND_ROWS}; raise it or drop it")
        return mixture

    @model_validator(mode="after")
    def _stage_adds_up(self) -> Self:
        if self.batch_tokens % self.context_tokens:
            below = max(1, self.batch_tokens // self.context_tokens) * self.context_tokens
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is not a multiple of context_tokens {self.context_tokens}; "
                f"use {below} or {below + self.context_tokens}"
            )
        if self.mixture and self.long_documents and self.long_documents.share < 1:
            shares = (self.long_documents.share, 1 - self.long_documents.share)
            least = min(weight for weight in self.mixture.values() if weight > 0) / sum(self.mixture.values())
            if least * min(shares) * MIXTURE_ROUND_ROWS < 1:
                raise ValueError(
                    f"mixture and long_documents.share together give a smallest share of {least * min(shares):.2g}, "
                    f"below 1/{MIXTURE_ROUND_ROWS}; raise one of them"
                )
        if self.tokens < self.batch_tokens:
            raise ValueError(f"tokens {self.tokens} is less than one batch; use at least {self.batch_tokens}")
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"final_learning_rate {self.final_learning_rate} exceeds learning_rate {self.learning_rate}; lower it"
            )
        if self.warmup_steps is not None and self.warmup_steps > self.planned_steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} exceeds the stage's {self.planned_steps} updates; lower it"
            )
        return self

    @property
    def planned_steps(self) -> int:
        """Updates that `tokens` are enough for."""
        return self.tokens // self.batch_tokens

    @property
    def steps(self) -> int:
        """Updates of the stage."""
        return self.planned_steps

    @property
    def rows_per_step(self) -> int:
        """Rows of one update, all ranks together."""
        return self.batch_tokens // self.context_tokens

    def learning_rate_at(self, step: float) -> float:
        """Learning rate of update `step`, counted from 0; between two updates that of the curve through them."""
        planned = self.planned_steps
        warmup = self.warmup_steps if self.warmup_steps is not None else round(self.warmup_fraction * planned)
        return learning_rate_at(
            step,
            steps=planned,
            warmup_steps=warmup,
            schedule=self.schedule,
            peak=self.learning_rate,
            final=self.final_learning_rate,
            decay_fraction=self.decay_fraction,
        )


class TrainingConfig(StageConfig):
    """What all stages of a curriculum share.

    `ranks`, `threads_per_rank` and `zero_stage` are part of the result's identity: they change the order in which
    floating-point numbers are summed, and with it the last bits of the weights.
    """

    seed: int = Field(0, ge=0, description="of the initial weights and of the data order")
    ranks: int = Field(1, ge=1, description="processes that train together (one a GPU)")
    threads_per_rank: int = Field(2, ge=1, description="CPU threads of each rank")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of weights and activations in the passes; the optimiser always keeps fp32"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        0, description="what DeepSpeed shards over ranks: 1 optimiser state, 2 and gradients, 3 and weights"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="adamw; or muon for the hidden matrices and AdamW for the rest, which learns more from few updates",
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    sequence_parallel: int = Field(
        1, ge=1, description="ranks in a row that share rows, each an equal stretch of the tokens; divides ranks"
    )
    feed_forward_chunk_tokens: int | None = Field(
        None, ge=1, description="tokens of a row that feed-forwards take at a time, once more in the backward pass"
    )
    offload_optimizer: bool = Field(
        False, description="keep AdamW's state and fp32 weights in CPU memory and update there; needs zero_stage 1 to 3"
    )
    offload_parameters: bool = Field(
        False, description="keep the weights in CPU memory and bring each layer's when needed; needs zero_stage 3"
    )
    offload_activations: bool = Field(
        False, description="keep recomputed blocks' inputs in CPU memory; needs gradient_checkpointing"
    )
    gpu_memory_gb: float | None = run_argument(
        None,
        "memory of each GPU, 10^9 bytes, that every stage must fit; left out: the GPU's own, and unchecked on a CPU",
        gt=0,
    )
    weight_decay: float = Field(0.1, ge=0, description="AdamW's decay, on matrices only")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's moment decays")
    epsilon: float = Field(1e-8, gt=0, description="AdamW's epsilon")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the gradient; longer ones are scaled down")
    carry_optimizer: bool = Field(
        True,
        description="start from the previous stage's AdamW moments too: fresh second moments would make the first "
        "updates of the stage far too large",
    )
    validation_rows: int = Field(16, ge=0, description="held-out rows whose loss is measured; 0 measures none")
    validate_every_fraction: float = Field(0.1, gt=0, le=1, description="share of the stage between measurements")
    checkpoint_every_fraction: float = run_argument(0.1, "share of the stage between checkpoints", gt=0, le=1)
    checkpoint_every_seconds: float = run_argument(600.0, "longest time between checkpoints, seconds", gt=0)
    checkpoints_kept: int = run_argument(
        2, "newest checkpoints kept while training, beside the best and one to roll back to", ge=1
    )
    checkpoint_kept_every_steps: int | None = run_argument(
        None, "keep every checkpoint whose updates are a multiple of it; left out: no further ones", ge=1
    )
    peak_teraflops: float | None = run_argument(
        None,
        "dense TFLOP/s of one rank's device, which MFU is relative to; left out: as published, else measured",
        gt=0,
    )
    profile_steps: str | None = run_argument(
        None, 'updates of each stage to profile, counted from 1: "10-12" or "10,50-52"; left out: none'
    )
    slow_step_factor: float = run_argument(3.0, "an update so many times slower than usual is slow", gt=1)
    slow_step_seconds: float = run_argument(10.0, "and it must take so many seconds longer than usual", ge=0)
    slow_step_profiles: int = run_argument(2, "updates of a stage profiled because the one before was slow", ge=0)
    roll_back: RollBackPolicy = Field(RollBackPolicy(), description="what follows a bad loss")
    restart: RestartPolicy = run_argument(RestartPolicy(), "what follows a dead or hung rank")
    nodes: int = run_argument(1, "machines that the ranks are spread over, equally", ge=1)
    rendezvous_address: str | None = run_argument(
        None, "host:port of the first machine, which the others reach it at; needed with several nodes"
    )

    @field_validator("profile_steps", mode="before")
    @classmethod
    def _profile_steps_parse(cls, profile_steps: str | int | None) -> str | None:
        text = None if profile_steps is None else str(profile_steps)  # YAML makes a number of a single update
        parse_steps(text or "")
        return text

    @model_validator(mode="after")
    def _ranks_spread_evenly(self) -> Self:
        if self.ranks % self.nodes:
            raise ValueError(f"{self.ranks} ranks cannot be spread over {self.nodes} nodes; use a multiple of nodes")
        if self.nodes > 1 and not (self.rendezvous_address or "").rpartition(":")[2].isdecimal():
            raise ValueError("several nodes meet at rendezvous_address; set it to the first one's host:port")
        return self

    @model_validator(mode="after")
    def _placement_is_possible(self) -> Self:
        if self.ranks % self.sequence_parallel:
            raise ValueError(
                f"sequence_parallel {self.sequence_parallel} does not divide ranks {self.ranks}; use a divisor"
            )
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs ZeRO; set zero_stage to 1, 2 or 3")
        if self.offload_parameters and self.zero_stage != 3:
            raise ValueError(f"offload_parameters needs zero_stage 3, not {self.zero_stage}; set it")
        if self.offload_activations and not self.gradient_checkpointing:
            raise ValueError("offload_activations is for the inputs of recomputed blocks; set gradient_checkpointing")
        return self

    @model_validator(mode="after")
    def _numerics_are_exact(self) -> Self:
        if self.precision == "bf16" and self.zero_stage == 0:
            raise ValueError(
                "precision bf16 with zero_stage 0 keeps no fp32 weights to update; set zero_stage to 1 "
                "(on one rank it costs nothing more)"
            )
        if self.optimizer == "muon" and self.zero_stage:
            raise ValueError(
                f"optimizer muon needs whole matrices, which zero_stage {self.zero_stage} cuts up; "
                "set zero_stage to 0 or optimizer to adamw"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} must both lie in [0, 1)")
        return self


class TrainingStageConfig(CurriculumStage, TrainingConfig):
    """One curriculum stage, complete: what its checkpoint's fingerprint is made of."""

    model: ModelConfig = Field(description="the language model's shape")
    zero_stage: Literal[0, 1, 2, 3] = 0
    gradient_checkpointing: bool = False
    sequence_parallel: int = Field(1, ge=1)
    offload_optimizer: bool = False
    offload_parameters: bool = False
    offload_activations: bool = False
    data_order: str | None = Field(
        None, description="the stage whose data order this one continues, filled in from `continues`; None: its own"
    )
    first_row: int = Field(0, ge=0, description="the row of the data order that this stage begins with")
    cuts: tuple[Cut, ...] = added_argument((), "where the stage was shortened, oldest first (`shorten_curriculum`)")

    @model_validator(mode="after")
    def _cuts_only_shorten(self) -> Self:
        made, steps = 0, self.planned_steps
        for cut in self.cuts:
            if cut.after_step < made or cut.steps > steps:
                raise ValueError(
                    f"cuts: stage '{self.name}' of {steps} updates, last cut after {made}, cannot be cut after "
                    f"{cut.after_step} to {cut.steps}; a cut comes after the one before it and leaves fewer updates"
                )
            made, steps = cut.after_step, cut.steps
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.rows_per_step % self.data_ranks:
            unit = self.context_tokens * self.data_ranks
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is {self.rows_per_step} rows, which {self.data_ranks} data-parallel "
                f"ranks cannot share equally; use a multiple of {unit}"
            )
        if self.micro_batch and self.rows_per_step % (self.micro_batch * self.data_ranks):
            unit = self.context_tokens * self.micro_batch * self.data_ranks
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is not a multiple of context_tokens × micro_batch × data-parallel "
                f"ranks = {unit}; use {max(1, self.batch_tokens // unit) * unit}, or leave micro_batch out"
            )
        check_sequence_parallel(self.model, self.context_tokens, self.sequence_parallel)
        if self.context_tokens > self.model.maximum_context:
            raise ValueError(
                f"context_tokens {self.context_tokens} exceeds model.maximum_context "
                f"{self.model.maximum_context}; raise the latter"
            )
        return self

    @property
    def steps(self) -> int:
        """Updates of the stage, after what it was shortened by."""
        return self.cuts[-1].steps if self.cuts else self.planned_steps

    @property
    def shortening(self) -> str:
        """For people: what the stage was shortened by; empty when it was not."""
        if not self.cuts:
            return ""
        made = [f"{cut.after_step:,}" for cut in self.cuts if cut.after_step]
        when = f"after update{'s' * (len(made) > 1)} {' and '.join(made)}" if made else "before the first"
        return f"shortened from {self.planned_steps:,} to {self.steps:,} updates {when}"

    def learning_rate_at(self, step: float) -> float:
        """Learning rate of update `step`, counted from 0.

        Until a cut as planned; from there the rest of the plan, warmup included, compressed in time, so that the
        last update is made at the rate that the plan ends at.
        """
        if not self.cuts:
            return super().learning_rate_at(step)
        return super().learning_rate_at(planned_updates(step + 1, self.planned_steps, self.cuts) - 1)

    @property
    def data_ranks(self) -> int:
        """Groups of ranks that work on rows of their own."""
        return self.ranks // self.sequence_parallel

    @property
    def batch_plan(self) -> BatchPlan:
        """How an update's rows are dealt to ranks and micro-batches."""
        rows_of_rank = self.rows_per_step // self.data_ranks
        fitting = max(1, DEFAULT_MICRO_BATCH_TOKENS * self.sequence_parallel // self.context_tokens)
        largest = max(rows for rows in range(1, min(rows_of_rank, fitting) + 1) if rows_of_rank % rows == 0)
        return BatchPlan(
            self.rows_per_step,
            self.micro_batch or largest,
            self.ranks,
            sequence_parallel=self.sequence_parallel,
            first_row_of_stage=self.first_row,
        )

    def placement(self, *, fused: bool = True) -> TrainingPlacement:
        """How the stage is spread over GPUs, for the sizing; fused: with the GPU kernels of the gpu extra."""
        return TrainingPlacement(
            precision=self.precision,
            ranks=self.ranks,
            zero_stage=self.zero_stage,
            micro_batch=self.batch_plan.micro_batch,
            sequence_parallel=self.sequence_parallel,
            gradient_checkpointing=self.gradient_checkpointing,
            offload_activations=self.offload_activations,
            feed_forward_chunk_tokens=self.feed_forward_chunk_tokens,
            offload_optimizer=self.offload_optimizer,
            offload_parameters=self.offload_parameters,
            fused=fused,
        )

    def sampler(self, documents: Documents) -> Sampler:
        """The rows of this stage's data order; raises ConfigurationError when `documents` cannot give them."""
        return Sampler(
            documents,
            context_tokens=self.context_tokens,
            seed=self.seed,
            stage=self.data_order or self.name,
            mixture=self.mixture,
            long_documents=self.long_documents,
            packing=self.packing,
        )

    @property
    def stage_model(self) -> ModelConfig:
        """The model of this stage: `model` with the stage's RoPE base."""
        return self.model if self.rope_theta is None else self.model.model_copy(update={"rope_theta": self.rope_theta})

    def every(self, fraction: float) -> int:
        """Updates in a share of the stage as it was when it began, at least one: a cut moves no measurement."""
        at_start = next((cut.steps for cut in reversed(self.cuts) if cut.after_step == 0), self.planned_steps)
        return max(1, round(fraction * at_start))

    def deepspeed_config(self) -> dict[str, Any]:
        """What `deepspeed.initialize` is given."""
        plan = self.batch_plan
        return {
            "train_micro_batch_size_per_gpu": plan.micro_batch,
            "gradient_accumulation_steps": plan.accumulation,
            # DeepSpeed counts every rank as having rows of its own, also those that share them.
            "train_batch_size": plan.micro_batch * plan.accumulation * self.ranks,
            # Without ZeRO the trainer clips, because DeepSpeed would not tell the norm.
            "gradient_clipping": self.gradient_clip if self.zero_stage else 0.0,
            "zero_optimization": {"stage": self.zero_stage, **self._offloading()},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "bf16": {"enabled": self.precision == "bf16"},
            "data_types": {"grad_accum_dtype": "fp32"},
            "steps_per_print": 1 << 40,
        }

    def _offloading(self) -> dict[str, Any]:
        """What DeepSpeed keeps in CPU memory; page-locked where there is a GPU to copy to."""
        place = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        chosen = {"offload_optimizer": self.offload_optimizer, "offload_param": self.offload_parameters}
        return {name: place for name, is_chosen in chosen.items() if is_chosen}
