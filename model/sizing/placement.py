"""How a training step is spread over GPUs and the processor's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model.errors import ConfigurationError


@dataclass(frozen=True)
class TrainingPlacement:
    """What decides the memory of a training step beside the model and the context.

    `feed_forward_chunk_tokens` and the two activation settings are `HybridLM`'s attributes of these names; `fused` says
    whether the GPU kernels of fla, mamba_ssm and flash-attn are installed.
    """

    precision: Literal["bf16", "fp32"] = "bf16"
    ranks: int = 1
    zero_stage: int = 2
    micro_batch: int = 1
    sequence_parallel: int = 1
    gradient_checkpointing: bool = False
    offload_activations: bool = False
    feed_forward_chunk_tokens: int | None = None
    offload_optimizer: bool = False
    offload_parameters: bool = False
    fused: bool = True

    def __post_init__(self) -> None:
        """Raises ConfigurationError for what DeepSpeed or the trainer does not have."""
        if self.precision == "bf16" and self.zero_stage == 0:
            raise ConfigurationError("precision bf16 needs fp32 weights to update: set zero_stage to 1, 2 or 3")
        if self.ranks % self.sequence_parallel:
            raise ConfigurationError(
                f"sequence_parallel={self.sequence_parallel} does not divide ranks={self.ranks}: choose a divisor"
            )
        if self.offload_optimizer and not self.zero_stage:
            raise ConfigurationError("offload_optimizer needs ZeRO: set zero_stage to 1, 2 or 3")
        if self.offload_parameters and self.zero_stage != 3:
            raise ConfigurationError(f"offload_parameters needs zero_stage=3, not {self.zero_stage}")
        if self.offload_activations and not self.gradient_checkpointing:
            raise ConfigurationError("offload_activations needs gradient_checkpointing")

    @property
    def element_bytes(self) -> int:
        """Of weights and activations."""
        return 2 if self.precision == "bf16" else 4

    @property
    def measures(self) -> tuple[str, ...]:
        """In words, what is done for the sake of memory."""
        named = {
            f"ZeRO-{self.zero_stage}": True,
            f"micro-batch {self.micro_batch}": self.micro_batch > 1,
            "recomputed blocks": self.gradient_checkpointing,
            f"feed-forward in {self.feed_forward_chunk_tokens} tokens": self.feed_forward_chunk_tokens is not None,
            f"rows over {self.sequence_parallel} GPUs": self.sequence_parallel > 1,
            "block inputs in CPU memory": self.offload_activations,
            "optimiser in CPU memory": self.offload_optimizer,
            "weights in CPU memory": self.offload_parameters,
        }
        return tuple(name for name, is_set in named.items() if is_set)
