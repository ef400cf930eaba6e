"""The contract: text in, text out, whatever file the weights are in."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from model.errors import GenerationError
from model.generation import GREEDY, SamplingConfig

FloatArray = npt.NDArray[np.float64]

#: Text is a document's beginning: the separator comes before it. Token ids are read as they are.
Prompt = str | Sequence[int]


class ModelFormat(StrEnum):
    """The files a model can be opened from."""

    FLOAT32 = "fp32"
    INT8 = "int8"
    INT4 = "int4"
    GGUF = "gguf"
    ONNX = "onnx"
    ONNX_INT8 = "onnx-int8"
    HUGGING_FACE = "hugging-face"


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


class Continuation(NamedTuple):
    """Tokens that may follow others; neither is empty."""

    context: Sequence[int]
    tokens: Sequence[int]


class ContinuationScore(NamedTuple):
    """How likely a continuation is."""

    log_likelihood: float  # of all its tokens, in nats
    greedy: bool  # whether each of them is the likeliest at its place


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

    @property
    @abstractmethod
    def separator(self) -> int:
        """The token that ends a document, and so also opens one."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids of a text in which nothing is special; no separator is added."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text; tokenizers that have threads use them."""
        return [self.encode(text) for text in texts]

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special ones left out."""

    def _encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt: a text is the beginning of a document, ids are taken as they are."""
        return [self.separator, *self.encode(prompt)] if isinstance(prompt, str) else list(prompt)

    @abstractmethod
    def generate(self, prompts: Sequence[Prompt], settings: Settings = GREEDY_SETTINGS) -> list[Completion]:
        """Continue each prompt; an empty text starts a document. Settings are for all prompts, or one each."""

    @abstractmethod
    def stream_batch(
        self, prompts: Sequence[Prompt], settings: Settings = GREEDY_SETTINGS, cancel: Callable[[], bool] | None = None
    ) -> Iterator[TextPiece]:
        """Continue all prompts side by side, piece by piece; a prompt's pieces together are what `generate` returns.

        Closing the iterator, or `cancel` returning true before a step, ends the work.
        """

    def stream(
        self, prompt: Prompt, settings: GenerationSettings = GREEDY_SETTINGS, cancel: Callable[[], bool] | None = None
    ) -> Iterator[str]:
        """`stream_batch` of one prompt."""
        for piece in self.stream_batch([prompt], settings, cancel):
            yield piece.text

    @abstractmethod
    def score(self, texts: Sequence[str]) -> list[TextScore]:
        """Log-likelihood of each token of each text."""

    @abstractmethod
    def logits(self, tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """What the model says after each token, in pieces of the row, each [time, vocabulary].

        The row is one document, or part of one, from its first token on; nothing is added to it. A row with one token
        more than `ModelInfo.maximum_context` allows is refused.
        """

    def score_tokens(self, rows: Sequence[Sequence[int]]) -> list[FloatArray]:
        """Log-likelihood in nats of every token of each row but its first, given all before it in the row."""
        return [self._score_row(row) for row in rows]

    def score_continuations(self, continuations: Sequence[Continuation]) -> list[ContinuationScore]:
        """How likely each continuation is after its context; equal contexts are read once where that is possible."""
        by_context: dict[tuple[int, ...], list[int]] = {}
        for place, one in enumerate(continuations):
            if not one.context or not one.tokens:
                raise GenerationError("a continuation and its context must have at least one token each")
            by_context.setdefault(tuple(one.context), []).append(place)
        scores: dict[int, ContinuationScore] = {}
        for context, places in by_context.items():
            rows = [list(continuations[place].tokens) for place in places]
            for place, row, logits in zip(places, rows, self._logits_after(context, rows), strict=True):
                scores[place] = _continuation_score(row, log_softmax(logits))
        return [scores[place] for place in range(len(continuations))]

    @abstractmethod
    def info(self) -> ModelInfo:
        """Format, size and shape."""

    @abstractmethod
    def health(self) -> Health:
        """Whether the model can answer now; never raises."""

    def _score_row(self, row: Sequence[int]) -> FloatArray:
        scores = [np.zeros(0)]
        read = 1
        for piece in self.logits(row[:-1]) if len(row) > 1 else ():
            targets = np.asarray(row[read : read + len(piece)])
            scores.append(log_softmax(piece)[np.arange(len(piece)), targets])
            read += len(piece)
        return np.concatenate(scores)

    def _logits_after(self, context: Sequence[int], rows: Sequence[Sequence[int]]) -> Iterator[npt.NDArray[np.float32]]:
        """What predicts each row's tokens after the context, each [tokens, vocabulary].

        Here the context is read again for every row of several tokens; runtimes that can copy what they remember
        read it once.
        """
        first: npt.NDArray[np.float32] | None = None
        for row in rows:
            if len(row) > 1 or first is None:
                logits = np.concatenate(list(self.logits([*context, *row[:-1]])))[len(context) - 1 :]
                first = logits[:1]
            yield logits if len(row) > 1 else first


def _continuation_score(tokens: Sequence[int], table: FloatArray) -> ContinuationScore:
    chosen = table[np.arange(len(tokens)), tokens]
    return ContinuationScore(float(chosen.sum()), bool((table.argmax(axis=1) == tokens).all()))


def log_softmax(logits: npt.NDArray[np.floating]) -> FloatArray:
    """Log-probabilities of each row of logits, in double precision."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    shifted: FloatArray = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return shifted
