"""The contract over a `HybridLM`: encode, run, decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from model.cache import NO_SNAPSHOTS
from model.errors import GenerationError
from model.generation import FinishReason, GeneratedSequence, GenerationRequest, stream_requests
from model.interface.contract import (
    GREEDY_SETTINGS,
    Completion,
    Continuation,
    ContinuationScore,
    FloatArray,
    GenerationSettings,
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
from model.interface.hybrid_scoring import score_continuations, score_rows
from model.interface.tokenizer_text import TokenizerText
from model.interface.written_text import WrittenText, cut
from model.language_model import HybridLM
from model.sizing import parameter_count

#: Tokens read in one forward pass, and floats of their logits (256 MiB), at most.
_READ_TOKENS = 2048
_READ_LOGITS = 1 << 26


class HybridInterface(TokenizerText):
    """A model in this process. `separator` is the token that ends and so also opens a document."""

    def __init__(
        self, model: HybridLM, tokenizer: Tokenizer, separator: int, model_format: ModelFormat, file_bytes: int
    ) -> None:
        super().__init__(tokenizer, separator)
        self.model = model
        self._format = model_format
        self._file_bytes = file_bytes

    def generate(self, prompts: Sequence[Prompt], settings: Settings = GREEDY_SETTINGS) -> list[Completion]:
        """All prompts run side by side, whatever their lengths; the answers come in the prompts' order."""
        wanted = settings_for_each(settings, len(prompts))
        _, requests = self._requests(prompts, wanted)
        sequences = [GeneratedSequence() for _ in requests]
        asked = any(one.log_probabilities for one in wanted)
        for new in stream_requests(self.model, requests, log_probabilities=asked):
            sequences[new.row].add(new)
        return [self._completion(*row) for row in zip(requests, sequences, wanted, strict=True)]

    def stream_batch(
        self, prompts: Sequence[Prompt], settings: Settings = GREEDY_SETTINGS, cancel: Callable[[], bool] | None = None
    ) -> Iterator[TextPiece]:
        """A piece is held back while its last character is incomplete, or may begin a stop text."""
        texts, requests = self._requests(prompts, settings_for_each(settings, len(prompts)))
        for new in stream_requests(self.model, requests, cancel=cancel):
            text = texts[new.row].take()
            if new.finish is not None:
                text += texts[new.row].rest()
            if text:
                yield TextPiece(new.row, text)

    def score(self, texts: Sequence[str]) -> list[TextScore]:
        """Each text is scored as a document of its own, its first token given the separator."""
        rows = [self._encode(text) for text in texts]
        limit = self.model.config.maximum_context
        if (longest := max(map(len, rows), default=0)) > limit:
            raise GenerationError(
                f"a text of {longest} tokens is over the model's maximum_context of {limit}: score it in parts"
            )
        scores = self.score_tokens(rows)
        return [self._text_score(*each) for each in zip(texts, rows, scores, strict=True)]

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """What the model says after each token."""
        if len(tokens) > self.model.config.maximum_context:
            raise GenerationError(
                f"a row of {len(tokens)} tokens is over the model's maximum_context of "
                f"{self.model.config.maximum_context}: read it in parts"
            )
        cache = self.model.new_cache(NO_SNAPSHOTS)
        size = max(1, min(_READ_TOKENS, _READ_LOGITS // self.model.config.vocabulary_size))
        for piece in torch.tensor([list(tokens)], device=self._device).split(size, dim=1):
            yield self.model(piece, cache=cache)[0].float().cpu().numpy()

    def score_tokens(self, rows: Sequence[Sequence[int]]) -> list[FloatArray]:
        """In batches of rows alike in length."""
        return score_rows(self.model, rows)

    def score_continuations(self, continuations: Sequence[Continuation]) -> list[ContinuationScore]:
        """In batches; a context with several continuations is read once."""
        return score_continuations(self.model, continuations)

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
        return measured_health(self._predicts_finite)

    @torch.no_grad()
    def _predicts_finite(self) -> bool:
        logits = self.model(torch.tensor([[self._separator]], device=self._device), logits_for="last")
        return bool(torch.isfinite(logits).all())

    def _requests(
        self, prompts: Sequence[Prompt], settings: Sequence[GenerationSettings]
    ) -> tuple[list[WrittenText], list[GenerationRequest]]:
        texts = [WrittenText(self.decode, one.stop_texts) for one in settings]
        requests = [
            GenerationRequest(
                self._encode(prompt),
                one.maximum_new_tokens,
                one.sampling,
                stop_tokens=(self._separator,),
                stop_when=_watch(text),
            )
            for prompt, one, text in zip(prompts, settings, texts, strict=True)
        ]
        return texts, requests

    def _completion(
        self, request: GenerationRequest, sequence: GeneratedSequence, settings: GenerationSettings
    ) -> Completion:
        tokens = sequence.tokens
        ended = bool(tokens) and tokens[-1] == self._separator
        return Completion(
            text=cut(self.decode(tokens[:-1] if ended else tokens), settings.stop_texts),
            prompt_tokens=len(request.prompt),
            new_tokens=len(tokens),
            finished=sequence.finish is FinishReason.STOP,
            log_probabilities=sequence.log_probabilities if settings.log_probabilities else None,
        )

    def _text_score(self, text: str, ids: list[int], scores: FloatArray) -> TextScore:
        return text_score(text, [str(self.tokenizer.id_to_token(token)) for token in ids[1:]], scores.tolist())

    @property
    def _device(self) -> torch.device:
        return self.model.embeddings.weight.device


def _watch(text: WrittenText) -> Callable[[Sequence[int]], bool]:
    def stopped(tokens: Sequence[int]) -> bool:
        text.add(tokens[-1])
        return text.stopped

    return stopped
