"""What a hybrid language model is made of: one frozen, validated description."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.errors import ConfigurationError

PositiveInt = Annotated[int, Field(gt=0)]


class ModelConfig(BaseModel):
    """Shape and numerics of a `HybridLM`. Every field changes the weights' shapes or the results."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary_size: PositiveInt = Field(default=4096, description="Rows of the embedding; token ids are 0 … n-1.")
    width: PositiveInt = Field(default=256, description="Size of the residual stream (d_model).")
    layer_count: PositiveInt = Field(default=4, description="Number of blocks, each a mixer and a feed-forward.")
    pattern: tuple[str, ...] = Field(
        default=("hgrn2", "hgrn2", "hgrn2", "attention"),
        min_length=1,
        description="Mixer kinds tiled over the layers; ignored when layer_kinds is given.",
    )
    layer_kinds: tuple[str, ...] | None = Field(
        default=None, description="Mixer kind of every layer, first to last; overrides pattern."
    )
    feed_forward_width: PositiveInt = Field(
        default=512, description="Inner size of the SwiGLU, the same in every layer that has one."
    )
    feed_forward_layers: Literal["all", "attention_only"] = Field(
        default="all", description="Which layers have a feed-forward; exports other than our own want all."
    )

    attention_heads: PositiveInt = Field(default=4, description="Query heads; head size is width / attention_heads.")
    key_value_heads: PositiveInt = Field(default=2, description="Key/value heads (GQA); divides attention_heads.")
    query_key_norm: bool = Field(
        default=False,
        description="RMSNorm of each attention head's queries and keys before rotation; the Qwen3.5 layout has it.",
    )
    rope_theta: float = Field(
        default=10_000.0, gt=1, description="Base of the rotary frequencies; 1e6 for 100K contexts."
    )

    hgrn2_head_dim: PositiveInt = Field(
        default=128, description="HGRN-2 key and value size of a head (fla's expand_ratio); divides width."
    )
    short_convolution: bool = Field(
        default=True,
        description="Causal depthwise convolution (4 taps) before HGRN-2; without it recall training stalls.",
    )

    gated_deltanet_head_dim: PositiveInt = Field(default=128, description="Gated DeltaNet key size of a head.")
    gated_deltanet_heads: PositiveInt | None = Field(
        default=None, description="Gated DeltaNet heads; none: 0.75 * width / head size, so that it has 6 * width^2."
    )
    gated_deltanet_value_expansion: PositiveInt = Field(
        default=2, description="Gated DeltaNet value size of a head, in units of its key size."
    )

    mamba2_head_dim: PositiveInt = Field(default=64, description="Mamba-2 channels of a head; divides the inner width.")
    mamba2_state_size: PositiveInt = Field(default=128, description="Mamba-2 state entries of a channel (d_state).")
    mamba2_expansion: PositiveInt = Field(default=2, description="Mamba-2 inner width, in units of width.")
    mamba2_groups: PositiveInt = Field(default=1, description="Mamba-2 groups that share B and C; divides its heads.")

    norm_eps: float = Field(default=1e-6, gt=0, description="Epsilon of the block norms (HGRN-2's own norm uses 1e-5).")
    tie_embeddings: bool = Field(default=True, description="Use the embedding matrix as output head.")
    maximum_context: PositiveInt = Field(
        default=4096,
        description="Longest sequence in tokens the model is meant for; recorded, and checked by generation.",
    )

    linear_initializer_scale: float = Field(
        default=1.0, gt=0, description="Standard deviation of linear weights, in units of fan_in ** -0.5."
    )
    embedding_initializer_std: float | None = Field(
        default=None,
        gt=0,
        description="Standard deviation of the embedding (and of an untied head) at initialisation; none: "
        "width ** -0.5, which learns faster at small widths than the usual 0.02 and is close to it at 4096.",
    )

    @cached_property
    def mixer_kinds(self) -> tuple[str, ...]:
        """The mixer kind of each layer, pattern resolved."""
        if self.layer_kinds is not None:
            return self.layer_kinds
        return tuple(self.pattern[index % len(self.pattern)] for index in range(self.layer_count))

    @property
    def head_dim(self) -> int:
        """Size of an attention head."""
        return self.width // self.attention_heads

    @property
    def mamba2_inner_width(self) -> int:
        """Channels inside a Mamba-2 mixer."""
        return self.mamba2_expansion * self.width

    @property
    def gated_deltanet_head_count(self) -> int:
        """Heads of a Gated DeltaNet mixer."""
        if self.gated_deltanet_heads is not None:
            return self.gated_deltanet_heads
        return max(1, 3 * self.width // (4 * self.gated_deltanet_head_dim))

    def has_feed_forward(self, layer: int) -> bool:
        """Whether a layer's mixer is followed by a feed-forward."""
        return self.feed_forward_layers == "all" or self.mixer_kinds[layer] == "attention"

    def changed(self, **fields: object) -> Self:
        """This configuration with other values of some fields, checked anew."""
        return type(self).model_validate(self.model_dump() | fields)

    def to_dict(self) -> dict[str, object]:
        """The fields as tools built on transformers ask a model for them; peft reads `tie_word_embeddings`."""
        return self.model_dump() | {"tie_word_embeddings": self.tie_embeddings}

    @model_validator(mode="after")
    def _check(self) -> Self:
        # Imported here because each mixer module is written against this class.
        from model.mixers import MIXERS

        if self.layer_kinds is not None and len(self.layer_kinds) != self.layer_count:
            raise ConfigurationError(
                f"layer_kinds lists {len(self.layer_kinds)} layers but layer_count is {self.layer_count}: "
                "make them equal, or leave layer_kinds out to tile pattern"
            )
        field = "pattern" if self.layer_kinds is None else "layer_kinds"
        for kind in dict.fromkeys((*self.pattern, *self.mixer_kinds)):
            if kind not in MIXERS:
                known = ", ".join(sorted(MIXERS))
                raise ConfigurationError(f"{field}: unknown mixer {kind!r}; available: {known}")
        for kind in dict.fromkeys(self.mixer_kinds):
            MIXERS[kind].check(self)
        return self


def require_divisible(config: ModelConfig, dividend: str, divisor: str) -> None:
    """Refuse `config` unless field `divisor` divides field `dividend`."""
    total, part = getattr(config, dividend), getattr(config, divisor)
    if total % part:
        raise ConfigurationError(
            f"{divisor}={part} does not divide {dividend}={total}: choose one of {_divisors_near(total, part)}"
        )


def _divisors_near(total: int, part: int) -> str:
    divisors = [candidate for candidate in range(1, total + 1) if total % candidate == 0]
    nearest = sorted(sorted(divisors, key=lambda candidate: abs(candidate - part))[:4])
    return ", ".join(map(str, nearest))
