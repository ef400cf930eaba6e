"""What a GGUF architecture is to the writer and the reader: one small interface, one module an architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from gguf import GGUFWriter
from torch import Tensor

from model.config import ModelConfig
from model.errors import ConfigurationError

#: Our metadata: the full model configuration as JSON; and, by parameter, values that the file holds only in a form
#: computed from them.
CONFIG_KEY = "sam2.model_config"
RUNTIME_KEY = "sam2.runtime"
ORIGINAL_PREFIX = "sam2."

Transform = Callable[[Tensor], Tensor]


def unchanged(values: Tensor) -> Tensor:
    """Stored as it is."""
    return values


@dataclass(frozen=True)
class Placement:
    """One tensor of the file and the parameters it holds, with the exact way back.

    rows: of each parameter, where several are joined one below the other.
    """

    name: str
    parameters: tuple[str, ...]
    store: Transform = unchanged
    restore: Transform = unchanged
    rows: tuple[int, ...] = ()

    def pack(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The file's tensor."""
        parts = [parameters[name] for name in self.parameters]
        return self.store(torch.cat(parts) if self.rows else parts[0])

    def unpack(self, values: Tensor) -> dict[str, Tensor]:
        """The model's parameters."""
        restored = self.restore(values)
        parts = restored.split(self.rows) if self.rows else (restored,)
        return {name: part.contiguous() for name, part in zip(self.parameters, parts, strict=True)}


@dataclass(frozen=True)
class Derivation:
    """Tensors of the file computed from a parameter with no exact way back: the parameter itself goes to the metadata.

    derive: from the parameter to the file's tensors, by name.
    """

    parameter: str
    derive: Callable[[Tensor], dict[str, Tensor]]

    @property
    def key(self) -> str:
        """Where the parameter is in the metadata, as a flat array of float32."""
        return ORIGINAL_PREFIX + self.parameter


class Layout(ABC):
    """How a hybrid's weights are called and shaped in files of one architecture."""

    #: `general.architecture`, by which llama.cpp picks its code.
    architecture: ClassVar[str]
    #: The one kind of recurrent layer it has beside attention.
    recurrent_kind: ClassVar[str]
    #: Where the file can run, for whoever opens it.
    runtime_notice: ClassVar[str]
    #: What it calls the norm before the feed-forward.
    feed_forward_norm: ClassVar[str] = "ffn_norm"

    @abstractmethod
    def check(self, config: ModelConfig) -> None:
        """Raise ConfigurationError, naming the field, for a model that llama.cpp's code would compute differently."""

    @abstractmethod
    def add_metadata(self, writer: GGUFWriter, config: ModelConfig) -> None:
        """Keys of this architecture beside those that all have."""

    def key_value_heads(self, config: ModelConfig) -> int | list[int]:
        """`head_count_kv`: of each layer, 0 marks a recurrent one; unless an architecture marks them otherwise."""
        return [config.key_value_heads if kind == "attention" else 0 for kind in config.mixer_kinds]

    @abstractmethod
    def layer_placements(self, config: ModelConfig, index: int) -> Iterator[Placement]:
        """The tensors of a layer's mixer."""

    def derivations(self, config: ModelConfig) -> list[Derivation]:
        """Parameters that llama.cpp wants in another form; none unless an architecture says so."""
        return []

    def placements(self, config: ModelConfig) -> list[Placement]:
        """Every parameter stored as it is, in file order."""
        places = [
            Placement("token_embd.weight", ("embeddings.weight",)),
            Placement("output_norm.weight", ("norm.weight",)),
        ]
        if not config.tie_embeddings:
            places.append(Placement("output.weight", ("lm_head.weight",)))
        for index in range(config.layer_count):
            places += self.layer_placements(config, index)
            places += self._block_placements(index)
        return places

    def _block_placements(self, index: int) -> Iterator[Placement]:
        pairs = {"attn_norm": "attn_norm", self.feed_forward_norm: "mlp_norm"}
        pairs |= {f"ffn_{role}": f"mlp.{role}_proj" for role in ("gate", "up", "down")}
        for theirs, ours in pairs.items():
            yield Placement(f"blk.{index}.{theirs}.weight", (f"layers.{index}.{ours}.weight",))


def require(condition: bool, architecture: str, problem: str) -> None:
    """Refuse a model for one reason. The problem names the field and what it would have to be."""
    if not condition:
        raise ConfigurationError(
            f"{problem}: GGUF architecture '{architecture}' knows no other; train with that, or export as safetensors"
        )


def weights(index: int, names: dict[str, str]) -> Iterator[Placement]:
    """Matrices and norms of a layer, stored as they are: the file's name to the mixer's."""
    for theirs, ours in names.items():
        yield Placement(f"blk.{index}.{theirs}.weight", (f"layers.{index}.attn.{ours}.weight",))


def convolution(index: int, theirs: str, ours: tuple[str, ...], rows: tuple[int, ...] = ()) -> Placement:
    """Short convolutions, joined if several: [channels, 1, taps] in the model, [channels, taps] in the file."""
    return Placement(
        f"blk.{index}.{theirs}.weight",
        tuple(f"layers.{index}.attn.{name}.weight" for name in ours),
        store=lambda values: values.squeeze(1),
        restore=lambda values: values.unsqueeze(1),
        rows=rows,
    )


def decay_rates(index: int, column: bool) -> Derivation:
    """The rates -exp(A_log) of a layer's heads, [heads] or, for llama.cpp's scan, [heads, 1]."""

    def derive(logarithms: Tensor) -> dict[str, Tensor]:
        rates = -logarithms.float().exp()
        return {f"blk.{index}.ssm_a": rates.unsqueeze(1) if column else rates}

    return Derivation(f"layers.{index}.attn.A_log", derive)
