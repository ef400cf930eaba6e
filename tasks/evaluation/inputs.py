"""What an evaluation reads: the checkpoint's model, and the token artifact's documents and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from infra.artifacts import Artifact
from infra.errors import ArtifactCorrupted, ConfigurationError
from model import HybridLM, ModelError, load
from tasks.evaluation.held_out import Corpus
from tasks.evaluation.token_bytes import TokenBytes
from tasks.tokenization import TOKENIZER_FILE, TokenDataset

MODEL_DIRECTORY = "model"


@dataclass(frozen=True)
class EvaluationInputs:
    """A model and the text it is measured on; splits and tables are read when first asked for."""

    model: HybridLM
    tokens: Artifact
    separator: int  # ends every document, and so opens the next

    @property
    def tokenizer_file(self) -> Path:
        """The `tokenizer.json` the text was encoded with."""
        return self.tokens.path(TOKENIZER_FILE)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Text to token ids and back."""
        return Tokenizer.from_file(str(self.tokenizer_file))

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
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def open_inputs(inputs: Mapping[str, Artifact]) -> EvaluationInputs:
    """Load the model and check that tokens and model belong together.

    Raises ConfigurationError when the vocabularies do not fit, ArtifactCorrupted for a bad checkpoint.
    """
    checkpoint, tokens = inputs["checkpoint"], inputs["tokens"]
    try:
        model = load(checkpoint.directory / MODEL_DIRECTORY)
    except ModelError as error:
        raise ArtifactCorrupted(
            f"checkpoint '{checkpoint.uri}': {error}.",
            "delete that directory and run again; training rebuilds it.",
        ) from error
    vocabulary = int(tokens.manifest.statistics["vocabulary_size"])
    if vocabulary > model.config.vocabulary_size:
        raise ConfigurationError(
            f"the tokenizer has {vocabulary} tokens, the model of '{checkpoint.uri}' only "
            f"{model.config.vocabulary_size}.",
            "evaluate with the tokens the model was trained on.",
        )
    return EvaluationInputs(model, tokens, int(tokens.manifest.statistics["end_of_text"]))


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
