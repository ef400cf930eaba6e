"""Reading prompts into a cache, segment by segment, so that memory beyond the cache is constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model.cache import Cache
from model.errors import GenerationCancelled, GenerationError
from model.language_model import HybridLM

#: Tokens of one forward pass, of all rows together. More are not faster, and need more memory.
SEGMENT_TOKENS = 2048
#: Shortest segment of a row: below it the recurrences' chunks and the products are no longer full.
_LEAST_SEGMENT = 64

Prompts = Tensor | Sequence[int] | Sequence[Sequence[int]]
#: Called with tokens read and tokens to read.
Progress = Callable[[int, int], None]
#: Asked before every forward pass; true ends the work.
Cancel = Callable[[], bool]


def prefill(
    model: HybridLM,
    prompts: Prompts,
    cache: Cache,
    segment_tokens: int | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Tensor:
    """Read `prompts` into `cache`, behind what it holds; returns the logits that follow, `[batch, vocabulary]`.

    `prompts` are token ids: `[batch, time]`, one sequence, or several, which may differ in length. Rows are read
    side by side up to the shortest one's end, the others on to the next end, and so on: nothing is padded, so each
    row is what it would be alone (to rounding). `segment_tokens` a row go through the model at once; by default
    `SEGMENT_TOKENS` of all rows together. The states are copied at the end of each row, as the cache's policy has
    it, and every `every_tokens` at the segment borders.

    Raises GenerationCancelled when `cancel` says so; the cache then holds what was read.
    """
    rows = as_rows(prompts, model.embeddings.weight.device)
    if not rows or any(len(row) == 0 for row in rows):
        raise GenerationError("an empty prompt: give at least one token, such as a document separator")
    if segment_tokens is not None and segment_tokens < 1:
        raise GenerationError(f"segment_tokens={segment_tokens}: give at least 1, or leave it out")
    return _Staircase(model, rows, cache, segment_tokens, progress, cancel).climb()


def resume(
    model: HybridLM,
    prompts: Prompts,
    cache: Cache,
    segment_tokens: int | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Tensor:
    """As `prefill` of whole `prompts`, reusing what `cache` already holds of their beginnings.

    Each row goes back to the longest prefix it shares with its prompt that it can return to exactly (see
    `Cache.trim`), and the rest is read. An empty cache is filled.
    """
    rows = as_rows(prompts, torch.device("cpu"))
    if cache.batch:
        cache.bind(model.config, len(rows))
        cache.trim([_reusable(cache, row, tokens.tolist()) for row, tokens in enumerate(rows)])
        rows = [tokens[length:] for tokens, length in zip(rows, cache.lengths, strict=True)]
    return prefill(model, [row.tolist() for row in rows], cache, segment_tokens, progress, cancel)


def rewind(model: HybridLM, cache: Cache, lengths: int | Sequence[int]) -> None:
    """Cut every row of `cache` to exactly `lengths` tokens: `Cache.trim`, and reading again what that lost."""
    wanted = [lengths] * cache.batch if isinstance(lengths, int) else list(lengths)
    tokens = [cache.tokens(row)[:length] for row, length in enumerate(wanted)]
    missing = cache.trim(wanted)
    behind = [row for row, count in enumerate(missing) if count]
    if not behind:
        return
    part = cache.select(behind)
    prefill(model, [tokens[row][-missing[row] :] for row in behind], part)
    parts = [part.select([behind.index(row)]) if row in behind else cache.select([row]) for row in range(cache.batch)]
    cache.adopt(Cache.concatenate(parts))


def as_rows(prompts: Prompts, device: torch.device) -> list[Tensor]:
    """Each prompt as token ids `[time]`."""
    if isinstance(prompts, Tensor):
        if prompts.dim() not in (1, 2):
            raise GenerationError(f"prompts have {prompts.dim()} dimensions: give [time] or [batch, time] token ids")
        return list(prompts.to(device).view(-1, prompts.shape[-1]).unbind(0))
    nested = [row for row in prompts if isinstance(row, Sequence)]
    if not nested:
        nested = [[token for token in prompts if isinstance(token, int)]]
    elif len(nested) != len(prompts):
        raise GenerationError("prompts mix token ids and sequences: give one sequence of ids, or several")
    return [torch.tensor(row, dtype=torch.long, device=device) for row in nested]


def _reusable(cache: Cache, row: int, tokens: list[int]) -> int:
    # The last token is always read: its logits are what is asked for.
    return min(cache.common_prefix(row, tokens), len(tokens) - 1)


class _Staircase:
    """Rows read side by side; each time the shortest end, they are set aside and the others go on."""

    def __init__(
        self,
        model: HybridLM,
        rows: list[Tensor],
        cache: Cache,
        segment_tokens: int | None,
        progress: Progress | None,
        cancel: Cancel | None,
    ) -> None:
        self.model, self.rows, self.cache, self.segment_tokens = model, rows, cache, segment_tokens
        self.progress, self.cancel = progress, cancel
        self.total = sum(map(len, rows))
        self.read = 0

    def climb(self) -> Tensor:
        cache, active = self.cache, list(range(len(self.rows)))
        cache.bind(self.model.config, len(active))
        ended: dict[int, Cache] = {}
        logits: dict[int, Tensor] = {}
        start = 0
        try:
            for end in sorted({len(row) for row in self.rows}):
                last = self._advance([self.rows[row][start:end] for row in active], cache)
                logits |= dict(zip(active, last, strict=True))
                start = end
                going = [place for place, row in enumerate(active) if len(self.rows[row]) > end]
                cache.snapshot(set(range(len(active))).difference(going))
                if going:
                    ended |= {row: cache.select([place]) for place, row in enumerate(active) if place not in going}
                    cache, active = cache.select(going), [active[place] for place in going]
        finally:
            if ended:
                ended |= {row: cache.select([place]) for place, row in enumerate(active)}
                self.cache.adopt(Cache.concatenate([ended[row] for row in range(len(self.rows))]))
        return torch.stack([logits[row] for row in range(len(self.rows))])

    @torch.no_grad()
    def _advance(self, parts: list[Tensor], cache: Cache) -> Tensor:
        """Logits after the last token of `parts`, all of one length, `[batch, vocabulary]`."""
        block = torch.stack(parts)
        size = self.segment_tokens or max(_LEAST_SEGMENT, SEGMENT_TOKENS // len(parts))
        for segment in block.split(size, dim=1):
            if self.cancel is not None and self.cancel():
                raise GenerationCancelled(f"cancelled after {self.read} of {self.total} prompt tokens")
            logits: Tensor = self.model(segment, cache=cache, logits_for="last")
            self.read += segment.numel()
            if self.progress is not None:
                self.progress(self.read, self.total)
        return logits[:, -1]
