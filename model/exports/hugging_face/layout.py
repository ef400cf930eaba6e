"""What each Hugging Face layout provides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from pydantic import ValidationError

from model.config import ModelConfig
from model.errors import ConfigurationError
from model.exports.hugging_face.fields import Fields
from model.exports.hugging_face.places import Place


class Layout(ABC):
    """One `model_type`: the fields of its `config.json` and the places of its tensors, in both directions."""

    #: `model_type` and the class in `architectures`.
    model_type: ClassVar[str]
    architecture: ClassVar[str]
    #: The linear mixer it has beside attention.
    mixer: ClassVar[str]

    def check(self, config: ModelConfig) -> None:
        """Raise ConfigurationError, naming the field and the fix, unless the layout gives the same results."""
        foreign = sorted(set(config.mixer_kinds) - {"attention", self.mixer})
        if foreign:
            raise ConfigurationError(
                f"layer_kinds has {' and '.join(foreign)} layers, and the Hugging Face layout {self.model_type} has "
                f"only {self.mixer} and attention: leave layout out, or save our own checkpoint"
            )
        if config.feed_forward_layers != "all":
            raise ConfigurationError(
                f"feed_forward_layers={config.feed_forward_layers!r}: the Hugging Face layout {self.model_type} has a "
                "feed-forward in every layer; train with feed_forward_layers='all'"
            )

    @abstractmethod
    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """The fields of `config.json` that this layout adds to the common ones."""

    @abstractmethod
    def places(self, config: ModelConfig) -> list[Place]:
        """Every tensor of the file, in its order."""

    @abstractmethod
    def open(self, fields: Fields) -> tuple[ModelConfig, list[Place]]:
        """The model a `config.json` describes, and the places of its parameters.

        Raises ConfigurationError, naming the field, when our model cannot represent it.
        """


def without_query_key_norm(config: ModelConfig, model_type: str) -> None:
    """Refuse a model whose attention norms queries and keys, for layouts that have no such norms."""
    if config.query_key_norm and "attention" in config.mixer_kinds:
        raise ConfigurationError(
            f"query_key_norm=True: attention in the Hugging Face layout {model_type} has no norms of queries and keys; "
            "train with query_key_norm=False (or, with gated_deltanet layers, export as qwen3_5_text)"
        )


def common_places(config: ModelConfig, embeddings: str, norm: str) -> tuple[list[Place], list[Place]]:
    """The tensors before and after the layers."""
    last = [Place(norm, ("norm.weight",))]
    if not config.tie_embeddings:
        last.append(Place("lm_head.weight", ("lm_head.weight",)))
    return [Place(embeddings, ("embeddings.weight",))], last


def layers(config: ModelConfig) -> Iterator[tuple[str, str, str]]:
    """Of every layer its mixer kind, their prefix and ours."""
    for index, kind in enumerate(config.mixer_kinds):
        yield kind, f"model.layers.{index}.", f"layers.{index}."


def same_names(theirs: str, ours: str, names: Sequence[str]) -> list[Place]:
    """Places of tensors that differ in the prefix only."""
    return [Place(theirs + name, (ours + name,)) for name in names]


def build_config(fields: Fields, **values: Any) -> ModelConfig:
    """Our configuration, its own refusals told with the file's name."""
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        reasons = "; ".join(str(problem["msg"]) for problem in error.errors())
        raise ConfigurationError(f"{fields.path} describes a model this version cannot build: {reasons}") from error
