"""Rows for one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from infra.errors import ConfigurationError

#: Target of a token that is not learnt from: a document's last, or padding.
NO_TARGET = -100
#: Token of the padding after a row's last document, under best-fit packing.
PADDING_TOKEN = 0


@dataclass(frozen=True)
class Batch:
    """Rows for one forward pass, all `[rows, context]` int64.

    targets[:, t] is the token after tokens[:, t], or -100 where that is another document's first token or padding.
    document_ids count the documents within a row from 0; padding is a document of its own.
    """

    tokens: Tensor
    targets: Tensor
    document_ids: Tensor

    @property
    def target_count(self) -> int:
        """Tokens that the loss is averaged over."""
        return int((self.targets >= 0).sum())

    def slice(self, sequence_rank: int, sequence_parallel: int) -> Batch:
        """The `sequence_rank`-th of `sequence_parallel` equal stretches of every row, `[rows, context / P]`.

        Document ids stay those of the whole row. Raises ConfigurationError when the rows do not divide.
        """
        context = self.tokens.shape[1]
        if context % sequence_parallel:
            below = context - context % sequence_parallel
            raise ConfigurationError(
                f"context_tokens {context} does not divide by sequence_parallel {sequence_parallel}.",
                f"use {below or sequence_parallel} tokens, or another sequence_parallel.",
            )
        width = context // sequence_parallel
        return self._each(lambda part: part.narrow(1, sequence_rank * width, width).contiguous())

    def pinned(self) -> Batch:
        """The same batch in page-locked memory, from which a copy to the GPU need not be waited for."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        if device.type == "cpu":
            return self
        return self._each(lambda part: part.pin_memory().to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(change(self.tokens), change(self.targets), change(self.document_ids))
