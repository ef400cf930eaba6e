"""The contract over a `HybridLM`: encode, run, decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.cache import NO_SNAPSHOTS
from model.errors import GenerationError
from model.generation import FinishReason, GeneratedSequence, GenerationRequest, stream_requests
from model.interface.contract import (
    GREEDY_SETTINGS,
    Completion,
    GenerationSettings,
    Health,
    ModelFormat,
    ModelInfo,
    ModelInterface,
    Settings,
    TextPiece,
    TextScore,
    measured_health,
    settings_for_each,
    text_score,
)
from model.interface.written_text import WrittenText, cut
from model.language_model import HybridLM
from model.sizing import parameter_count

#: Tokens scored in one forward pass, and floats of their logits (256 MiB), at most.
_SCORED_TOKENS = 2048
_SCORED_LOGITS = 1 << 26


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

    def generate(self, prompts: Sequence[str], settings: Settings = GREEDY_SETTINGS) -> list[Completion]:
        """All prompts run side by side, whatever their lengths; the answers come in the prompts' order."""
        wanted = settings_for_each(settings, len(prompts))
        _, requests = self._requests(prompts, wanted)
        sequences = [GeneratedSequence() for _ in requests]
        asked = any(one.log_probabilities for one in wanted)
        for new in stream_requests(self.model, requests, log_probabilities=asked):
            sequences[new.row].add(new)
        return [self._completion(*row) for row in zip(requests, sequences, wanted, strict=True)]

    def stream_batch(
        self, prompts: Sequence[str], settings: Settings = GREEDY_SETTINGS, cancel: Callable[[], bool] | None = None
    ) -> Iterator[TextPiece]:
        """A piece is held back while its last character is incomplete, or may begin a stop text."""
        texts, requests = self._requests(prompts, settings_for_each(settings, len(prompts)))
        for new in stream_requests(self.model, requests, cancel=cancel):
            text = texts[new.row].take()
            if new.finish is not None:
                text += texts[new.row].rest()
            if text:
                yield TextPiece(new.row, text)

    @torch.no_grad()
    def score(self, texts: Sequence[str]) -> list[TextScore]:
        """Each text is scored as a document of its own, its first token given the separator.

        Texts of like length go through the model together, padded on the right, where nothing looks.
        """
        rows = [self._encode(text) for text in texts]
        limit = self.model.config.maximum_context
        if (longest := max(map(len, rows), default=0)) > limit:
            raise GenerationError(
                f"a text of {longest} tokens is over the model's maximum_context of {limit}: score it in parts"
            )
        scores: dict[int, list[float]] = {}
        for group in _groups([len(row) for row in rows], self._piece_tokens()):
            found = self._score_group([rows[index] for index in group])
            scores |= dict(zip(group, found, strict=True))
        return [self._text_score(text, rows[index], scores[index]) for index, text in enumerate(texts)]

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

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return [self._separator, *ids]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _requests(
        self, prompts: Sequence[str], settings: Sequence[GenerationSettings]
    ) -> tuple[list[WrittenText], list[GenerationRequest]]:
        texts = [WrittenText(self._decode, one.stop_texts) for one in settings]
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
            text=cut(self._decode(tokens[:-1] if ended else tokens), settings.stop_texts),
            prompt_tokens=len(request.prompt),
            new_tokens=len(tokens),
            finished=sequence.finish is FinishReason.STOP,
            log_probabilities=sequence.log_probabilities if settings.log_probabilities else None,
        )

    def _piece_tokens(self) -> int:
        return max(1, min(_SCORED_TOKENS, _SCORED_LOGITS // self.model.config.vocabulary_size))

    def _score_group(self, rows: Sequence[list[int]]) -> list[list[float]]:
        """Log-likelihoods of each row's tokens but the first; rows are padded to the longest."""
        width = max(map(len, rows))
        padded = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=self._device)
        cache = self.model.new_cache(NO_SNAPSHOTS)
        found: list[Tensor] = []
        for inputs, targets in zip(
            *(part.split(self._piece_tokens(), dim=1) for part in (padded[:, :-1], padded[:, 1:])), strict=True
        ):
            if inputs.shape[1]:
                logits = self.model(inputs, cache=cache).float()
                found.append(logits.log_softmax(dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1))
        table: list[list[float]] = torch.cat(found, dim=1).tolist() if found else [[] for _ in rows]
        return [scores[: len(row) - 1] for scores, row in zip(table, rows, strict=True)]

    def _text_score(self, text: str, ids: list[int], scores: list[float]) -> TextScore:
        return text_score(text, [str(self.tokenizer.id_to_token(token)) for token in ids[1:]], scores)

    @property
    def _device(self) -> torch.device:
        return self.model.embeddings.weight.device


def _watch(text: WrittenText) -> Callable[[Sequence[int]], bool]:
    def stopped(tokens: Sequence[int]) -> bool:
        text.add(tokens[-1])
        return text.stopped

    return stopped


def _groups(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Places of rows alike in length, together at most `limit` tokens when padded; a longer row alone."""
    group: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        if group and (len(group) + 1) * lengths[group[0]] > limit:
            yield group
            group = []
        group.append(place)
    if group:
        yield group
