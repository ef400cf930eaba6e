"""The contract over a GGUF file in llama.cpp. Every prompt has a memory of its own; the weights are shared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from model.config import ModelConfig
from model.errors import GenerationError
from model.interface.contract import (
    GREEDY_SETTINGS,
    Completion,
    GenerationSettings,
    Health,
    ModelFormat,
    ModelInfo,
    ModelInterface,
    Prompt,
    Settings,
    TextPiece,
    TextScore,
    measured_health,
    settings_for_each,
    text_score,
)
from model.interface.written_text import WrittenText, cut
from model.llama_cpp import LlamaModel, Step
from model.sizing import parameter_count

#: Prompts written side by side; each holds its keys, values and states.
_ROWS_AT_ONCE = 32


class TextCodec(ABC):
    """Text to token ids and back."""

    #: The token that ends and so also opens a document.
    separator: int
    #: All tokens that end a text.
    stop_tokens: Collection[int]

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text in which nothing is special."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""

    @abstractmethod
    def spelling(self, token: int) -> str:
        """A token as it is in the vocabulary."""


class TokenizerCodec(TextCodec):
    """A `tokenizer.json`: the same ids as in every other format of the model."""

    def __init__(self, tokenizer: Tokenizer, separator: int) -> None:
        self._tokenizer = tokenizer
        self.separator = separator
        self.stop_tokens = (separator,)

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which nothing is special."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def spelling(self, token: int) -> str:
        """A token as it is in the vocabulary."""
        return str(self._tokenizer.id_to_token(token))


class LlamaCodec(TextCodec):
    """llama.cpp's own tokenizer, for files that bring no `tokenizer.json`."""

    def __init__(self, model: LlamaModel) -> None:
        """Raises GenerationError when the file names no token that opens a document."""
        opening = model.beginning_of_text if model.beginning_of_text is not None else model.end_of_text
        if opening is None:
            raise GenerationError(
                f"'{model.path}' names neither a beginning nor an end of text: give its tokenizer.json to open_model"
            )
        self._model = model
        self.separator = opening
        self.stop_tokens = frozenset(filter(model.ends_generation, range(model.vocabulary_size)))

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which nothing is special."""
        return self._model.tokenize(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return self._model.detokenize(ids).decode("utf-8", "replace")

    def spelling(self, token: int) -> str:
        """A token as it is in the vocabulary."""
        return self._model.spelling(token)


@dataclass
class _Row:
    """One prompt being continued."""

    place: int
    steps: Iterator[Step]
    text: WrittenText


class LlamaInterface(ModelInterface):
    """A file in llama.cpp, in this process. Several threads may call it at once."""

    def __init__(self, model: LlamaModel, codec: TextCodec, config: ModelConfig | None = None) -> None:
        """config: of a model of ours; a file of another tool has none."""
        self.model = model
        self.codec = codec
        self._config = config

    @property
    def separator(self) -> int:
        """The token that ends a document, and so also opens one."""
        return self.codec.separator

    def encode(self, text: str) -> list[int]:
        """Token ids of a text in which nothing is special."""
        return self.codec.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special ones left out."""
        return self.codec.decode(ids)

    def generate(self, prompts: Sequence[Prompt], settings: Settings = GREEDY_SETTINGS) -> list[Completion]:
        """One prompt after the other, each on all threads."""
        each = settings_for_each(settings, len(prompts))
        return [self._complete(self._encode(prompt), one) for prompt, one in zip(prompts, each, strict=True)]

    def stream_batch(
        self, prompts: Sequence[Prompt], settings: Settings = GREEDY_SETTINGS, cancel: Callable[[], bool] | None = None
    ) -> Iterator[TextPiece]:
        """The prompts take turns, a token each; a piece is held back while its last character is incomplete."""
        each = settings_for_each(settings, len(prompts))
        waiting = deque(enumerate(zip(prompts, each, strict=True)))
        running: deque[_Row] = deque()
        while waiting or running:
            if waiting and len(running) < _ROWS_AT_ONCE:
                place, (prompt, one) = waiting.popleft()
                running.append(self._row(place, self._encode(prompt), one))
            if cancel is not None and cancel():
                return
            row = running.popleft()
            if piece := self._advance(row, running):
                yield TextPiece(row.place, piece)

    def score(self, texts: Sequence[str]) -> list[TextScore]:
        """Each text is scored as a document of its own, its first token given the separator."""
        return [self._score_one(text) for text in texts]

    def logits(self, tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """What the model says after each token, as llama.cpp computes it by default."""
        with self.model.session(len(tokens)) as session:
            yield from session.read_all(tokens)

    def _logits_after(self, context: Sequence[int], rows: Sequence[Sequence[int]]) -> Iterator[npt.NDArray[np.float32]]:
        """The context is read once; each row goes on from what was remembered of it."""
        with self.model.session(len(context) + max(map(len, rows)) - 1) as session:
            first = session.read(context)[None]
            remembered = session.remember() if max(map(len, rows)) > 1 else b""
            for row in rows:
                if len(row) == 1:
                    yield first
                else:
                    session.return_to(remembered)
                    yield np.concatenate([first, *session.read_all(row[:-1])])

    def info(self) -> ModelInfo:
        """Format, size and shape; a file of another tool names its architecture as every layer's kind."""
        model, config = self.model, self._config
        architecture = model.metadata("general.architecture") or "unknown"
        return ModelInfo(
            format=ModelFormat.GGUF,
            parameters=model.parameter_count if config is None else parameter_count(config).total,
            vocabulary_size=model.vocabulary_size,
            maximum_context=model.maximum_context,
            layers=[architecture] * model.layer_count if config is None else list(config.mixer_kinds),
            file_bytes=self.model.path.stat().st_size,
        )

    def health(self) -> Health:
        """Predict one token after the separator."""
        return measured_health(lambda: bool(np.isfinite(self.model.logits([self.codec.separator])).all()))

    def _complete(self, prompt: list[int], settings: GenerationSettings) -> Completion:
        row = self._row(0, prompt, settings)
        tokens: list[int] = []
        log_probabilities: list[float] = []
        finished = False
        for token, logits in row.steps:
            tokens.append(token)
            if settings.log_probabilities:
                log_probabilities.append(float(torch.from_numpy(logits).log_softmax(dim=-1)[token]))
            finished = self._ends(row, token)
            if finished:
                break
        written = tokens[:-1] if tokens[-1] in self.codec.stop_tokens else tokens
        return Completion(
            text=cut(self.codec.decode(written), settings.stop_texts),
            prompt_tokens=len(prompt),
            new_tokens=len(tokens),
            finished=finished,
            log_probabilities=log_probabilities if settings.log_probabilities else None,
        )

    def _row(self, place: int, prompt: list[int], settings: GenerationSettings) -> _Row:
        steps = self.model.steps(prompt, settings.maximum_new_tokens, settings.sampling)
        return _Row(place, steps, WrittenText(self.codec.decode, settings.stop_texts))

    def _advance(self, row: _Row, running: deque[_Row]) -> str:
        """Write one token; the row goes to the end of the queue unless that was its last."""
        step = next(row.steps, None)
        if step is None or self._ends(row, step.token):
            return row.text.take() + row.text.rest()
        running.append(row)
        return row.text.take()

    def _ends(self, row: _Row, token: int) -> bool:
        """Take in a token; whether the text ends with it."""
        if token in self.codec.stop_tokens:
            return True
        row.text.add(token)
        return row.text.stopped

    def _score_one(self, text: str) -> TextScore:
        ids = self._encode(text)
        (scores,) = self.score_tokens([ids])
        return text_score(text, [self.codec.spelling(token) for token in ids[1:]], scores.tolist())
