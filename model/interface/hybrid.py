"""The contract over a `HybridLM`: encode, run, decode."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from tokenizers import Tokenizer

from model.errors import GenerationError
from model.generation import generate, stream
from model.interface.contract import (
    GREEDY_SETTINGS,
    Completion,
    GenerationSettings,
    Health,
    ModelFormat,
    ModelInfo,
    ModelInterface,
    TextScore,
)
from model.language_model import HybridLM
from model.sizing import parameter_count

_REPLACEMENT = "\ufffd"
#: Logits of one piece are vocabulary x this many floats.
_SCORED_PIECE_TOKENS = 512


class HybridInterface(ModelInterface):
    """A model in this process. `separator` is the token that ends and so also opens a document."""

    def __init__(
        self, model: HybridLM, tokenizer: Tokenizer, separator: int, model_format: ModelFormat, file_bytes: int
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._separator = separator
        self._format = model_format
        self._file_bytes = file_bytes

    def generate(self, prompts: Sequence[str], settings: GenerationSettings = GREEDY_SETTINGS) -> list[Completion]:
        """Prompts of equal length run as one batch; the answers come in the prompts' order."""
        encoded = [self._encode(prompt) for prompt in prompts]
        by_length: dict[int, list[int]] = defaultdict(list)
        for index, ids in enumerate(encoded):
            by_length[len(ids)].append(index)
        completions: dict[int, Completion] = {}
        for length, indices in by_length.items():
            rows = generate(
                self.model,
                [encoded[index] for index in indices],
                settings.maximum_new_tokens,
                settings.sampling,
                stop_tokens=(self._separator,),
            )
            for index, row in zip(indices, rows, strict=True):
                completions[index] = self._completion(length, row)
        return [completions[index] for index in range(len(prompts))]

    def stream(self, prompt: str, settings: GenerationSettings = GREEDY_SETTINGS) -> Iterator[str]:
        """A piece is held back while its last character is incomplete."""
        steps = stream(
            self.model,
            self._encode(prompt),
            settings.maximum_new_tokens,
            settings.sampling,
            stop_tokens=(self._separator,),
        )
        ids: list[int] = []
        given = ""
        for (token,) in steps:
            if token == self._separator:
                break
            ids.append(token)
            text = self._decode(ids)
            # Bytes of one character come in several tokens; a bad byte in the middle stays as it is.
            whole = text.rstrip(_REPLACEMENT) if text.endswith(_REPLACEMENT) else text
            if len(whole) > len(given):
                yield whole[len(given) :]
                given = whole
        rest = self._decode(ids)[len(given) :]
        if rest:
            yield rest

    def score(self, texts: Sequence[str]) -> list[TextScore]:
        """Each text is scored as a document of its own, its first token given the separator."""
        return [self._score_one(text) for text in texts]

    def info(self) -> ModelInfo:
        """Format, size and shape."""
        config = self.model.config
        return ModelInfo(
            format=self._format,
            parameters=parameter_count(config).total,
            vocabulary_size=config.vocabulary_size,
            maximum_context=config.maximum_context,
            layers=list(config.mixer_kinds),
            file_bytes=self._file_bytes,
        )

    def health(self) -> Health:
        """Predict one token after the separator."""
        started = time.perf_counter()
        try:
            with torch.no_grad():
                logits = self.model(torch.tensor([[self._separator]]), logits_for="last")
            finite = bool(torch.isfinite(logits).all())
            problem = "" if finite else "the model's output is not finite: its weights are damaged"
        except Exception as error:  # noqa: BLE001 - a health check reports what is wrong, whatever it is
            problem = f"{type(error).__name__}: {error}"
        return Health(ok=not problem, seconds=time.perf_counter() - started, problem=problem)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return [self._separator, *ids]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _completion(self, prompt_tokens: int, row: list[int]) -> Completion:
        finished = bool(row) and row[-1] == self._separator
        return Completion(
            text=self._decode(row[:-1] if finished else row),
            prompt_tokens=prompt_tokens,
            new_tokens=len(row),
            finished=finished,
        )

    @torch.no_grad()
    def _score_one(self, text: str) -> TextScore:
        ids = self._encode(text)
        limit = self.model.config.maximum_context
        if len(ids) > limit:
            raise GenerationError(
                f"a text of {len(ids)} tokens is over the model's maximum_context of {limit}: score it in parts"
            )
        inputs, targets = torch.tensor([ids[:-1]]), torch.tensor(ids[1:])
        cache = self.model.new_cache()
        scores: list[float] = []
        for piece in range(0, len(targets), _SCORED_PIECE_TOKENS):
            span = slice(piece, piece + _SCORED_PIECE_TOKENS)
            logits = self.model(inputs[:, span], cache=cache)[0].float()
            chosen = logits.log_softmax(dim=-1).gather(-1, targets[span, None])
            scores += chosen.squeeze(-1).tolist()
        if not all(map(math.isfinite, scores)):
            raise GenerationError("the model gave a likelihood that is not finite: its weights are damaged")
        tokens = [str(self.tokenizer.id_to_token(token)) for token in ids[1:]]
        return TextScore(tokens=tokens, log_likelihoods=scores, text_bytes=len(text.encode()))
