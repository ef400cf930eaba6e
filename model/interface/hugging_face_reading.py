"""A causal language model of transformers as something that reads on: rows, and what it remembers of them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from enum import StrEnum
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

_log = logging.getLogger(__name__)

#: Tokens of one forward pass, at most; one token of each row at least.
TOKENS_AT_ONCE = 4096
#: What families call their memory in what `forward` takes and returns.
_MEMORY_NAMES = ("past_key_values", "cache_params")
#: Length of the rows that show how a model may be fed, and how much of its largest logit the ways may differ.
_TRIAL_TOKENS, _SPLIT = 12, (5, 4, 3)
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_COARSE_TOLERANCE = 5e-2


class Feeding(StrEnum):
    """How a model takes a row in several calls and still says the same."""

    PIECES = "piece by piece"
    TOKENS = "token by token"
    WHOLE = "whole, again and again"


class CausalModel:
    """A `PreTrainedModel` with a head. Rows in one call are alike in length: nothing is masked.

    A shorter row may be filled up on its right, since no token of a causal model depends on a later one.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.vocabulary_size = int(model.config.get_text_config().vocab_size)
        self._selects_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    @property
    def device(self) -> torch.device:
        """Where the embeddings are."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @cached_property
    def feeding(self) -> Feeding:
        """Found by trial: some families forget their state when several tokens follow it, some return none.

        In transformers 5.23 Mamba begins anew with every piece, and RWKV, whose state is no `Cache`, mixes up the rows
        of a batch when it is asked to remember them.
        """
        rows = torch.arange(2 * _TRIAL_TOKENS, device=self.device).mul(7919).remainder(self.vocabulary_size)
        rows = rows.view(2, _TRIAL_TOKENS)
        whole = self.forward(rows, _TRIAL_TOKENS, remember=False)[0]
        for feeding, sizes in (
            (Feeding.PIECES, _SPLIT),
            (Feeding.TOKENS, (_SPLIT[0], *[1] * (_TRIAL_TOKENS - _SPLIT[0]))),
        ):
            if self._says_the_same(rows, sizes, whole):
                return feeding
        _log.info("%s is read %s: it remembers nothing that could be kept", type(self.model).__name__, Feeding.WHOLE)
        return Feeding.WHOLE

    @torch.inference_mode()
    def forward(
        self, tokens: Tensor, keep: int, memory: dict[str, Any] | None = None, remember: bool = True
    ) -> tuple[Tensor, dict[str, Any]]:
        """Logits [rows, keep, vocabulary] of the last `keep` of `tokens` [rows, time], and what to go on with.

        memory: what the call before returned; none for a row's beginning. Empty when the model cannot go on.
        """
        selected = {"logits_to_keep": keep} if self._selects_logits else {}
        output = self.model(input_ids=tokens.to(self.device), use_cache=remember, **selected, **(memory or {}))
        remembered = {
            name: found for name in _MEMORY_NAMES if hasattr(found := getattr(output, name, None), "reorder_cache")
        }
        return output.logits[:, -keep:], remembered

    def _says_the_same(self, rows: Tensor, sizes: Sequence[int], whole: Tensor) -> bool:
        """Whether two rows that change places after the first of their pieces get the logits of `whole`.

        Other rows are read in between: what is remembered must not be in the module itself.
        """
        first, *rest = rows.split(list(sizes), dim=1)
        try:
            logits, memory = self.forward(first, sizes[0])
            parts = [logits.flip(0)]
            self.forward(rows.flip(1), 1)
            for cache in memory.values():
                cache.reorder_cache(torch.tensor([1, 0], device=self.device))
            for piece in rest:
                if not memory:
                    return False
                logits, memory = self.forward(piece.flip(0), piece.shape[1], memory)
                parts.append(logits)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            _log.debug("%s cannot go on: %r", type(self.model).__name__, error)
            return False
        difference = (torch.cat(parts, dim=1).flip(0) - whole).abs().max()
        tolerance = _TOLERANCE.get(self.model.dtype, _COARSE_TOLERANCE)
        return bool(difference <= tolerance * whole.abs().max())


class RowReader:
    """Rows of one length, read from their first token on."""

    def __init__(self, model: CausalModel) -> None:
        self._model = model
        self._memory: dict[str, Any] | None = None
        self._tokens: Tensor | None = None  # all that was read, of a model that remembers nothing

    def read(self, tokens: Tensor) -> Tensor:
        """What follows the last of `tokens` [rows, time]: logits [rows, vocabulary]."""
        return self.read_all(tokens, keep=1)[:, -1]

    def read_all(self, tokens: Tensor, keep: int | None = None) -> Tensor:
        """Logits [rows, keep, vocabulary] of the last `keep` of `tokens`, of all when None."""
        keep = tokens.shape[1] if keep is None else keep
        if self._model.feeding is Feeding.WHOLE:
            self._tokens = tokens if self._tokens is None else torch.cat([self._tokens, tokens], dim=1)
            return self._model.forward(self._tokens, keep, remember=False)[0]
        return torch.cat([self._read_on(piece, wanted) for piece, wanted in self._pieces(tokens, keep)], dim=1)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows; one may be named several times."""
        if self._tokens is not None:
            self._tokens = self._tokens[list(rows)]
        for memory in (self._memory or {}).values():
            memory.reorder_cache(torch.tensor(rows, device=self._model.device))

    def _read_on(self, piece: Tensor, keep: int) -> Tensor:
        logits, self._memory = self._model.forward(piece, max(1, keep), self._memory)
        return logits[:, logits.shape[1] - keep :]

    def _pieces(self, tokens: Tensor, keep: int) -> list[tuple[Tensor, int]]:
        """What the model takes in one call each, and how many of its logits are wanted."""
        rows, time = tokens.shape
        if self._model.feeding is Feeding.TOKENS:
            size = time if self._memory is None else 1
        else:
            size = max(1, TOKENS_AT_ONCE // rows)
        pieces = tokens.split(size, dim=1)
        ends = [min(time, size * (number + 1)) for number in range(len(pieces))]
        first = time - keep
        return [(piece, min(piece.shape[1], max(0, end - first))) for piece, end in zip(pieces, ends, strict=True)]
