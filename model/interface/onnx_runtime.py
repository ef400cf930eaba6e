"""The contract over an ONNX export: onnxruntime runs the graphs, our sampling chooses the tokens."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.errors import GenerationError
from model.exports.onnx.directory import WEIGHTS_FILE
from model.exports.onnx.runtime import OnnxRuntime
from model.generation import sample
from model.generation.sampling import uniform
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
from model.sizing import parameter_count

#: Prompts of one length written in one batch; the others wait until one ends.
_ROWS_AT_ONCE = 32
#: Tokens whose logits are held at a time while scoring.
_SCORED_TOKENS = 512


@dataclass
class _Row:
    """One prompt being continued."""

    place: int
    prompt: list[int]
    settings: GenerationSettings
    text: WrittenText
    seed: int
    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    finished: bool = False  # by the model itself
    ended: bool = False


class OnnxRuntimeModel(ModelInterface):
    """An export in onnxruntime. `separator` is the token that ends and so also opens a document.

    Prompts of equal length are written as one batch (with int8 weights each alone), of different lengths in turns.
    """

    def __init__(self, runtime: OnnxRuntime, tokenizer: Tokenizer, separator: int) -> None:
        self.runtime = runtime
        self.tokenizer = tokenizer
        self._separator = separator

    @property
    def separator(self) -> int:
        """The token that ends a document, and so also opens one."""
        return self._separator

    def encode(self, text: str) -> list[int]:
        """Token ids of a text in which nothing is special."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special ones left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def generate(self, prompts: Sequence[Prompt], settings: Settings = GREEDY_SETTINGS) -> list[Completion]:
        """The answers come in the prompts' order."""
        rows = self._rows(prompts, settings)
        for _ in self._write(rows):
            pass
        return [self._completion(row) for row in rows]

    def stream_batch(
        self, prompts: Sequence[Prompt], settings: Settings = GREEDY_SETTINGS, cancel: Callable[[], bool] | None = None
    ) -> Iterator[TextPiece]:
        """A piece is held back while its last character is incomplete, or may begin a stop text."""
        for row in self._write(self._rows(prompts, settings), cancel):
            piece = row.text.take()
            if row.ended:
                piece += row.text.rest()
            if piece:
                yield TextPiece(row.place, piece)

    def score(self, texts: Sequence[str]) -> list[TextScore]:
        """Each text is scored as a document of its own, its first token given the separator."""
        return [self._score_one(text) for text in texts]

    def logits(self, tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """What the model says after each token."""
        self._check_length(len(tokens), "a text of")
        state = self.runtime.new_state(1)
        for start in range(0, len(tokens), _SCORED_TOKENS):
            inputs = np.array([tokens[start : start + _SCORED_TOKENS]])
            yield self.runtime.read(inputs, state, logits_for="all")[0]

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

    def _rows(self, prompts: Sequence[Prompt], settings: Settings) -> list[_Row]:
        rows = []
        for place, (prompt, one) in enumerate(zip(prompts, settings_for_each(settings, len(prompts)), strict=True)):
            seed = secrets.randbits(64) if one.sampling.seed is None else one.sampling.seed
            text = WrittenText(self.decode, one.stop_texts)
            rows.append(_Row(place, self._encode(prompt), one, text, seed))
            self._check_length(len(rows[-1].prompt) + one.maximum_new_tokens, "prompt and new tokens make")
        return rows

    def _write(self, rows: Sequence[_Row], cancel: Callable[[], bool] | None = None) -> Iterator[_Row]:
        """Each row after each of its tokens."""
        by_length: dict[int, list[_Row]] = defaultdict(list)
        for row in rows:
            by_length[len(row.prompt)].append(row)
        # A quantized graph rounds its inputs with one range over the batch: rows alone depend on nothing else.
        at_once = _ROWS_AT_ONCE if self.runtime.description.weights_type == "float32" else 1
        batches = [
            self._write_batch(alike[start : start + at_once])
            for alike in by_length.values()
            for start in range(0, len(alike), at_once)
        ]
        while batches:
            for batch in list(batches):
                if cancel is not None and cancel():
                    return
                advanced = next(batch, None)
                if advanced is None:
                    batches.remove(batch)
                else:
                    yield from advanced

    def _write_batch(self, rows: list[_Row]) -> Iterator[list[_Row]]:
        """Rows of one length, a token each at a time; a row that ends leaves."""
        state = self.runtime.new_state(len(rows))
        following = np.array([row.prompt for row in rows])
        while rows:
            logits = torch.from_numpy(self.runtime.read(following, state)[:, -1])
            self._choose(rows, logits)
            yield rows
            staying = [place for place, row in enumerate(rows) if not row.ended]
            if len(staying) < len(rows):
                state = self.runtime.select(state, staying)
                rows = [rows[place] for place in staying]
            following = np.array([[row.tokens[-1]] for row in rows])

    def _choose(self, rows: Sequence[_Row], logits: Tensor) -> None:
        """Give each row its next token."""
        draws = torch.tensor([uniform(row.seed, len(row.tokens)) for row in rows], dtype=torch.float64)
        chosen = sample(logits, [row.settings.sampling for row in rows], draws, _seen(rows, logits.shape[-1]))
        likelihoods = logits.log_softmax(dim=-1).gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        for row, token, likelihood in zip(rows, chosen.tolist(), likelihoods.tolist(), strict=True):
            row.tokens.append(token)
            row.log_probabilities.append(likelihood)
            if token != self._separator:
                row.text.add(token)
            row.finished = token == self._separator or row.text.stopped
            row.ended = row.finished or len(row.tokens) >= row.settings.maximum_new_tokens

    def _completion(self, row: _Row) -> Completion:
        written = row.tokens[:-1] if row.tokens[-1] == self._separator else row.tokens
        return Completion(
            text=cut(self.decode(written), row.settings.stop_texts),
            prompt_tokens=len(row.prompt),
            new_tokens=len(row.tokens),
            finished=row.finished,
            log_probabilities=row.log_probabilities if row.settings.log_probabilities else None,
        )

    def _score_one(self, text: str) -> TextScore:
        ids = self._encode(text)
        (scores,) = self.score_tokens([ids])
        return text_score(text, [str(self.tokenizer.id_to_token(token)) for token in ids[1:]], scores.tolist())

    def _check_length(self, length: int, what: str) -> None:
        limit = self.runtime.description.config.maximum_context
        if length > limit:
            raise GenerationError(f"{what} {length} tokens, over the model's maximum_context of {limit}: shorten it")

    def _encode(self, prompt: Prompt) -> list[int]:
        return [self.separator, *self.encode(prompt)] if isinstance(prompt, str) else list(prompt)


def _seen(rows: Sequence[_Row], vocabulary: int) -> Tensor | None:
    """Tokens of each row, for repetition penalties; None when no row has one."""
    if all(row.settings.sampling.repetition_penalty == 1 for row in rows):
        return None
    seen = torch.zeros(len(rows), vocabulary, dtype=torch.bool)
    for index, row in enumerate(rows):
        seen[index, row.prompt + row.tokens] = True
    return seen
