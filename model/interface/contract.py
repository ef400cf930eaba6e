"""The contract: text in, text out, whatever file the weights are in."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from model.errors import GenerationError
from model.generation import GREEDY, SamplingConfig


class ModelFormat(StrEnum):
    """The files a model can be opened from."""

    FLOAT32 = "fp32"
    INT8 = "int8"
    INT4 = "int4"
    GGUF = "gguf"
    ONNX = "onnx"
    ONNX_INT8 = "onnx-int8"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GenerationSettings(_Value):
    """What to write and how to choose it."""

    maximum_new_tokens: int = Field(default=64, ge=1, description="tokens to write, at most")
    sampling: SamplingConfig = Field(default=GREEDY, description="greedy by default")
    stop_texts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="the text ends before the first of these that the model writes"
    )
    log_probabilities: bool = Field(default=False, description="report the log-probability of each new token")


Settings = GenerationSettings | Sequence[GenerationSettings]

GREEDY_SETTINGS = GenerationSettings()


def settings_for_each(settings: Settings, count: int) -> list[GenerationSettings]:
    """One for each of `count` prompts. Raises GenerationError when there are more or fewer."""
    each = [settings] * count if isinstance(settings, GenerationSettings) else list(settings)
    if len(each) != count:
        raise GenerationError(f"{len(each)} settings for {count} prompts: give one each, or one for all")
    return each


class Completion(_Value):
    """What the model wrote after a prompt."""

    text: str = Field(description="the continuation, without the prompt")
    prompt_tokens: int
    new_tokens: int
    finished: bool = Field(description="the model ended the text or wrote a stop text; false when it ran out of tokens")
    log_probabilities: list[float] | None = Field(
        default=None, description="natural logarithm of each new token's probability, if asked for"
    )


class TextPiece(NamedTuple):
    """Text as it is written after one of several prompts."""

    prompt: int  # the prompt's place
    text: str


class TextScore(_Value):
    """How likely a text is as a whole document."""

    tokens: list[str] = Field(description="the text's tokens as they are spelled in the vocabulary")
    log_likelihoods: list[float] = Field(description="natural logarithm of each token's probability")
    text_bytes: int

    @property
    def log_likelihood(self) -> float:
        """Of the whole text, in nats."""
        return sum(self.log_likelihoods)


class ModelInfo(_Value):
    """What is behind the interface."""

    format: ModelFormat
    parameters: int
    vocabulary_size: int
    maximum_context: int
    layers: list[str] = Field(description="mixer kind of each layer")
    file_bytes: int = Field(description="size of the weights on disk")


class Health(_Value):
    """Whether the model answers; `problem` says why not."""

    ok: bool
    seconds: float = Field(description="time of one token")
    problem: str = ""


def text_score(text: str, tokens: list[str], log_likelihoods: list[float]) -> TextScore:
    """The score of a text. Raises GenerationError when a likelihood is not finite."""
    if not all(map(math.isfinite, log_likelihoods)):
        raise GenerationError("the model gave a likelihood that is not finite: its weights are damaged")
    return TextScore(tokens=tokens, log_likelihoods=log_likelihoods, text_bytes=len(text.encode()))


def measured_health(predicts_finite: Callable[[], bool]) -> Health:
    """The health of a model whose one predicted token has finite logits, or not; an exception is a problem too."""
    started = time.perf_counter()
    try:
        problem = "" if predicts_finite() else "the model's output is not finite: its weights are damaged"
    except Exception as error:  # noqa: BLE001 - a health check reports what is wrong, whatever it is
        problem = f"{type(error).__name__}: {error}"
    return Health(ok=not problem, seconds=time.perf_counter() - started, problem=problem)


class ModelInterface(ABC):
    """One model, ready to use. Raises GenerationError for requests it cannot serve."""

    @abstractmethod
    def generate(self, prompts: Sequence[str], settings: Settings = GREEDY_SETTINGS) -> list[Completion]:
        """Continue each prompt; an empty prompt starts a document. Settings are for all prompts, or one each."""

    @abstractmethod
    def stream_batch(
        self, prompts: Sequence[str], settings: Settings = GREEDY_SETTINGS, cancel: Callable[[], bool] | None = None
    ) -> Iterator[TextPiece]:
        """Continue all prompts side by side, piece by piece; a prompt's pieces together are what `generate` returns.

        Closing the iterator, or `cancel` returning true before a step, ends the work.
        """

    def stream(
        self, prompt: str, settings: GenerationSettings = GREEDY_SETTINGS, cancel: Callable[[], bool] | None = None
    ) -> Iterator[str]:
        """`stream_batch` of one prompt."""
        for piece in self.stream_batch([prompt], settings, cancel):
            yield piece.text

    @abstractmethod
    def score(self, texts: Sequence[str]) -> list[TextScore]:
        """Log-likelihood of each token of each text."""

    @abstractmethod
    def info(self) -> ModelInfo:
        """Format, size and shape."""

    @abstractmethod
    def health(self) -> Health:
        """Whether the model can answer now; never raises."""
