"""What an evaluation reads: the checkpoint's model, and the token artifact's documents and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from infra.artifacts import Artifact
from infra.errors import ArtifactCorrupted, ConfigurationError
from model import HybridLM, ModelConfig, ModelError
from model.interface import ModelInterface, open_model
from model.interface.hybrid import HybridInterface
from tasks.evaluation.held_out import Corpus
from tasks.evaluation.token_bytes import TokenBytes
from tasks.tokenization import TOKENIZER_FILE, TokenDataset

MODEL_DIRECTORY = "model"


@dataclass(frozen=True)
class EvaluationInputs:
    """A model and the text it is measured on; splits and tables are read when first asked for."""

    interface: ModelInterface
    tokens: Artifact
    separator: int  # ends every document, and so opens the next

    @property
    def model(self) -> HybridLM:
        """The model itself, for work on its weights. Raises ConfigurationError where another runtime holds them."""
        if not isinstance(self.interface, HybridInterface):
            raise ConfigurationError(
                f"the weights of a model in {type(self.interface).__name__} cannot be worked on.",
                "give a checkpoint that this project reads in torch.",
            )
        return self.interface.model

    @property
    def model_config(self) -> ModelConfig | None:
        """The model's shape; None for a model that is not of ours."""
        return self.interface.model.config if isinstance(self.interface, HybridInterface) else None

    @property
    def tokenizer_file(self) -> Path:
        """The `tokenizer.json` the text was encoded with."""
        return self.tokens.path(TOKENIZER_FILE)

    @cached_property
    def token_bytes(self) -> TokenBytes:
        """The bytes of every token."""
        return TokenBytes.from_file(self.tokenizer_file)

    @cached_property
    def training(self) -> Corpus:
        """All training documents."""
        return _read_split(self.tokens, "train")

    @cached_property
    def validation(self) -> Corpus:
        """All held-out documents."""
        return _read_split(self.tokens, "validation")

    def encode(self, text: str) -> list[int]:
        """Token ids of a piece of text, without special tokens."""
        return self.interface.encode(text)


def open_inputs(inputs: Mapping[str, Artifact]) -> EvaluationInputs:
    """Open the model and check that tokens and model belong together.

    Raises ConfigurationError when the vocabularies or separators do not fit, ArtifactCorrupted for a bad checkpoint.
    """
    checkpoint, tokens = inputs["checkpoint"], inputs["tokens"]
    try:
        interface = open_model(checkpoint.directory / MODEL_DIRECTORY, tokens.path(TOKENIZER_FILE))
    except ModelError as error:
        raise ArtifactCorrupted(
            f"checkpoint '{checkpoint.uri}': {error}.",
            "delete that directory and run again; training rebuilds it.",
        ) from error
    vocabulary, separator = (int(tokens.manifest.statistics[key]) for key in ("vocabulary_size", "end_of_text"))
    if vocabulary > interface.info().vocabulary_size:
        raise ConfigurationError(
            f"the tokenizer has {vocabulary} tokens, the model of '{checkpoint.uri}' only "
            f"{interface.info().vocabulary_size}.",
            "evaluate with the tokens the model was trained on.",
        )
    if separator != interface.separator:
        raise ConfigurationError(
            f"documents of '{tokens.uri}' end with token {separator}, its tokenizer names {interface.separator} for "
            "that.",
            "give tokens whose documents end with the tokenizer's own end of text.",
        )
    return EvaluationInputs(interface, tokens, separator)


def _read_split(artifact: Artifact, split: str) -> Corpus:
    """A split without its end-of-text tokens; documents without text are left out."""
    dataset = TokenDataset.open(artifact, split)
    tokens = np.concatenate([np.asarray(shard.tokens) for shard in dataset.shards])
    closing = np.cumsum(dataset.lengths) - 1
    lengths = dataset.lengths - 1
    if not len(lengths) or int(lengths.max()) == 0:
        raise ConfigurationError(
            f"split '{split}' of '{artifact.uri}' has no text.",
            "raise tokenization.minimum_validation_documents, or use more data.",
        )
    return Corpus(np.delete(tokens, closing), lengths[lengths > 0])
