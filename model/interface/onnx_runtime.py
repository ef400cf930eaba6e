"""The contract over an ONNX export: onnxruntime runs the graphs, our sampling chooses the tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.errors import GenerationError
from model.exports.onnx.directory import WEIGHTS_FILE
from model.exports.onnx.runtime import OnnxRuntime
from model.interface.contract import (
    GREEDY_SETTINGS,
    Completion,
    Health,
    ModelFormat,
    ModelInfo,
    Prompt,
    Settings,
    TextPiece,
    TextScore,
    measured_health,
    settings_for_each,
    text_score,
)
from model.interface.tokenizer_text import TokenizerText
from model.interface.written_rows import RowWriter, WrittenRow
from model.sizing import parameter_count

#: Prompts of one length written in one batch; the others wait until one ends.
_ROWS_AT_ONCE = 32
#: Tokens whose logits are held at a time while scoring.
_SCORED_TOKENS = 512


class _GraphRows:
    """Rows of one length that the graphs have read."""

    def __init__(self, runtime: OnnxRuntime, rows: int) -> None:
        self._runtime, self._state = runtime, runtime.new_state(rows)

    def read(self, tokens: Tensor) -> Tensor:
        """What follows the last of `tokens` [rows, time]: logits [rows, vocabulary]."""
        return torch.from_numpy(self._runtime.read(tokens.numpy(), self._state)[:, -1])

    def select(self, rows: Sequence[int]) -> None:
        """Let go of all rows but these."""
        self._state = self._runtime.select(self._state, list(rows))


class OnnxRuntimeModel(TokenizerText):
    """An export in onnxruntime. `separator` is the token that ends and so also opens a document.

    Prompts of equal length are written as one batch (with int8 weights each alone), of different lengths in turns.
    """

    def __init__(self, runtime: OnnxRuntime, tokenizer: Tokenizer, separator: int) -> None:
        super().__init__(tokenizer, separator)
        self.runtime = runtime
        # A quantized graph rounds its inputs with one range over the batch: rows alone depend on nothing else.
        at_once = _ROWS_AT_ONCE if runtime.description.weights_type == "float32" else 1
        self._writer = RowWriter(partial(_GraphRows, runtime), self.decode, (separator,), at_once)

    def generate(self, prompts: Sequence[Prompt], settings: Settings = GREEDY_SETTINGS) -> list[Completion]:
        """The answers come in the prompts' order."""
        return self._writer.complete(self._rows(prompts, settings))

    def stream_batch(
        self, prompts: Sequence[Prompt], settings: Settings = GREEDY_SETTINGS, cancel: Callable[[], bool] | None = None
    ) -> Iterator[TextPiece]:
        """A piece is held back while its last character is incomplete, or may begin a stop text."""
        yield from self._writer.pieces(self._rows(prompts, settings), cancel)

    def score(self, texts: Sequence[str]) -> list[TextScore]:
        """Each text is scored as a document of its own, its first token given the separator."""
        return [self._score_one(text) for text in texts]

    def logits(self, tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """What the model says after each token."""
        self._check_length(len(tokens), "a row of")
        state = self.runtime.new_state(1)
        for start in range(0, len(tokens), _SCORED_TOKENS):
            inputs = np.array([tokens[start : start + _SCORED_TOKENS]])
            yield self.runtime.read(inputs, state, logits_for="all")[0]

    def _logits_after(self, context: Sequence[int], rows: Sequence[Sequence[int]]) -> Iterator[npt.NDArray[np.float32]]:
        """The context is read once; a copy of its state goes on with each row."""
        self._check_length(len(context) + max(map(len, rows)) - 1, "a row of")
        state = self.runtime.new_state(1)
        for start in range(0, len(context), _SCORED_TOKENS):
            first = self.runtime.read(np.array([context[start : start + _SCORED_TOKENS]]), state)[0]
        for row in rows:
            if len(row) == 1:
                yield first
            else:
                going_on = self.runtime.select(state, [0])
                rest = self.runtime.read(np.array([row[:-1]]), going_on, logits_for="all")[0]
                yield np.concatenate([first, rest])

    def info(self) -> ModelInfo:
        """Format, size and shape."""
        description = self.runtime.description
        config = description.config
        return ModelInfo(
            format=ModelFormat.ONNX_INT8 if description.weights_type == "int8" else ModelFormat.ONNX,
            parameters=parameter_count(config).total,
            vocabulary_size=config.vocabulary_size,
            maximum_context=config.maximum_context,
            layers=list(config.mixer_kinds),
            file_bytes=(self.runtime.directory / WEIGHTS_FILE).stat().st_size,
        )

    def health(self) -> Health:
        """Predict one token after the separator."""
        return measured_health(self._predicts_finite)

    def _predicts_finite(self) -> bool:
        logits = self.runtime.read(np.array([[self._separator]]), self.runtime.new_state(1))
        return bool(np.isfinite(logits).all())

    def _rows(self, prompts: Sequence[Prompt], settings: Settings) -> list[WrittenRow]:
        each = settings_for_each(settings, len(prompts))
        rows = self._writer.rows([self._encode(prompt) for prompt in prompts], each)
        for row in rows:
            self._check_length(len(row.prompt) + row.settings.maximum_new_tokens, "prompt and new tokens make")
        return rows

    def _score_one(self, text: str) -> TextScore:
        ids = self._encode(text)
        self._check_length(len(ids), "a text of")
        (scores,) = self.score_tokens([ids])
        return text_score(text, [str(self.tokenizer.id_to_token(token)) for token in ids[1:]], scores.tolist())

    def _check_length(self, length: int, what: str) -> None:
        limit = self.runtime.description.config.maximum_context
        if length > limit:
            raise GenerationError(f"{what} {length} tokens, over the model's maximum_context of {limit}: shorten it")
