"""What a mixer must provide."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from model.config import ModelConfig
from model.sequence import Sequence


class Mixer(nn.Module):
    """Mixes information between the tokens of a sequence; one instance a layer.

    Subclasses call their projections as modules and never read `.weight` of them, so that LoRA adapters and
    quantized linears put in their place take effect.
    """

    # Whether the layer takes its row of the model's learned lower bounds.
    has_lower_bound = False

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer

    @abstractmethod
    def forward(self, hidden: Tensor, sequence: Sequence, lower_bound: Tensor | None) -> Tensor:
        """`hidden` `[batch, time, width]` to the same shape; reads and advances the layer's part of the cache."""

    @staticmethod
    @abstractmethod
    def check(config: ModelConfig) -> None:
        """Raise `ConfigurationError` when this mixer cannot be built from `config`."""

    @staticmethod
    @abstractmethod
    def parameter_count(config: ModelConfig) -> int:
        """Parameters of one layer's mixer (norms before it and model-wide bounds not counted)."""

    @staticmethod
    @abstractmethod
    def linear_parameter_count(config: ModelConfig) -> int:
        """Those of them that are in matrix products: 2 FLOPs each a token forward."""

    @staticmethod
    @abstractmethod
    def mixing_flops(config: ModelConfig, context: int) -> float:
        """Forward FLOPs a token outside the projections, mean over a sequence of `context` tokens."""

    @staticmethod
    @abstractmethod
    def cache_bytes(config: ModelConfig, context: int, element_bytes: int) -> tuple[int, int]:
        """Bytes for one sequence after `context` tokens: (keys and values, constant-size states).

        Keys, values and convolution inputs take `element_bytes` an element, recurrent states always 4.
        """

    @staticmethod
    @abstractmethod
    def saved_elements(config: ModelConfig, context: int) -> float:
        """Float32 elements a token that one layer's mixer keeps for its backward pass on CPU, in rows of `context`.

        The largest chunk is assumed, as at all but very strong decays.
        """
