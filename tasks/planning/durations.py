"""How long a stage trains on given GPUs: its model FLOPs over what the GPUs reach, and what its placement adds.

    hours = tokens * FLOPs a token / (MFU * peak * working GPUs) * (1 + added)

The MFU, assumed by kind of GPU or set by the user, is that of plain data-parallel training within one machine: ZeRO-2,
nothing recomputed or moved to the processor. `added` is what `model.sizing`'s `slowdown` gives the placement beyond
that, and the slower exchange where gradients cross from machine to machine. Nothing is taken to overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from infra.budget import Offer
from infra.errors import ConfigurationError
from model.sizing import Rates, TrainingPlacement, parameter_count, slowdown, training_flops_per_token
from tasks.training import TrainingStageConfig

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Fleet:
    """So many instances of an offer, and the GPUs that work of those paid for."""

    offer: Offer
    instances: int
    ranks: int
    mfu: float

    @property
    def gpus(self) -> int:
        """GPUs that are paid for."""
        return self.instances * self.offer.gpus

    @property
    def gpu_bytes(self) -> float:
        """Of one GPU, that tensors may take."""
        return self.offer.gpu_memory_gb * 1e9

    def holds(self, cpu_bytes_per_rank: int) -> bool:
        """Whether the processors' memory has room for so much of every rank; where it is not known, it is taken to."""
        memory = self.offer.cpu_memory_gb
        return memory is None or cpu_bytes_per_rank * self.ranks <= memory * 1e9 * self.instances

    @property
    def machines(self) -> int:
        """Instances that the working GPUs are spread over."""
        return -(-self.ranks // self.offer.gpus)

    @property
    def connected(self) -> bool:
        """Whether the instances can train together: one alone, or with a network between them."""
        return self.machines == 1 or self.offer.network_gigabits_per_second is not None

    def peak_flops_per_second(self, precision: str) -> float:
        """Of one GPU; raises ConfigurationError for fp32 when the catalog does not say."""
        if precision == "bf16":
            return self.offer.peak_bf16_teraflops * 1e12
        if self.offer.peak_fp32_teraflops is None:
            raise ConfigurationError(
                f"the profile trains in fp32, and the price catalog has no peak_fp32_teraflops of {self.offer.gpu}.",
                "add it to the catalog's `gpus`, or set training.precision to bf16.",
            )
        return self.offer.peak_fp32_teraflops * 1e12


def added_time(stage: TrainingStageConfig, placement: TrainingPlacement, fleet: Fleet) -> float:
    """Time added to what the assumed MFU includes, as a share."""
    rates = Rates(
        flops_per_second=fleet.mfu * fleet.peak_flops_per_second(stage.precision), batch_tokens=stage.batch_tokens
    )
    plain = replace(
        placement, zero_stage=min(placement.zero_stage, 2), sequence_parallel=1, gradient_checkpointing=False,
        offload_activations=False, offload_optimizer=False, offload_parameters=False, feed_forward_chunk_tokens=None,
    )  # fmt: skip
    model, context = stage.stage_model, stage.context_tokens
    # A row that is shared has fewer tokens on each GPU to exchange gradients for; plain rows are whole.
    added = slowdown(model, context, placement, rates) - slowdown(model, context, plain, rates)
    return max(0.0, added) + network_time(stage, placement, fleet)


def network_time(stage: TrainingStageConfig, placement: TrainingPlacement, fleet: Fleet) -> float:
    """Time added, as a share, because gradients and weights cross from machine to machine; 0 on one machine."""
    if fleet.machines == 1:
        return 0.0
    slower = max(0.0, 1 / _network_bytes_per_second(fleet.offer) - 1 / Rates().link_bytes_per_second)
    reached = fleet.mfu * fleet.peak_flops_per_second(stage.precision)
    bare = training_flops_per_token(stage.stage_model, stage.context_tokens).total / reached
    return _exchanged_bytes_per_token(stage, placement) * slower / bare


def training_hours(stage: TrainingStageConfig, placement: TrainingPlacement, fleet: Fleet) -> float:
    """Wall clock of the whole stage, without interruptions."""
    flops = stage.steps * stage.batch_tokens * training_flops_per_token(stage.stage_model, stage.context_tokens).total
    reached = fleet.mfu * fleet.peak_flops_per_second(stage.precision) * fleet.ranks
    return flops / reached / SECONDS_PER_HOUR * (1 + added_time(stage, placement, fleet))


def _network_bytes_per_second(offer: Offer) -> float:
    """Of one instance to the others: a ring over all its adapters passes through each machine once."""
    gigabits = offer.network_gigabits_per_second
    assert gigabits is not None, "only connected fleets are timed"
    return gigabits * 1e9 / 8


def _exchanged_bytes_per_token(stage: TrainingStageConfig, placement: TrainingPlacement) -> float:
    """Gradients summed each micro-batch; ZeRO-3 gathers weights for both passes (as in `model.sizing.fitting`)."""
    weights = parameter_count(stage.model).total * placement.element_bytes
    ranks = placement.ranks
    sent = weights * 2 * (ranks - 1) / ranks * (1 if placement.zero_stage < 3 else 1.5)
    return sent * placement.sequence_parallel / (placement.micro_batch * stage.context_tokens)
