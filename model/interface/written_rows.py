"""Prompts continued side by side by whatever model reads: our sampling chooses, stop tokens and texts end a row."""

from __future__ import annotations

import secrets
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from model.generation import sample
from model.generation.sampling import uniform
from model.interface.contract import Completion, GenerationSettings, TextPiece
from model.interface.written_text import WrittenText, cut

#: Rows of all lengths that a model remembers at a time.
_RUNNING_ROWS = 32


@dataclass
class WrittenRow:
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


class Reader(Protocol):
    """A model that has read rows of one length and reads on."""

    def read(self, tokens: Tensor) -> Tensor:
        """What follows the last of `tokens` [rows, time]: logits [rows, vocabulary]."""

    def select(self, rows: Sequence[int]) -> None:
        """Let go of all rows but these."""


@dataclass(frozen=True)
class RowWriter:
    """Writes rows in batches of prompts of one length; different lengths take turns.

    `begin` makes a reader for that many rows, `rows_at_once` says how many of a length may share one, `stop_tokens`
    end a text and are not part of it.
    """

    begin: Callable[[int], Reader]
    decode: Callable[[Sequence[int]], str]
    stop_tokens: Collection[int]
    rows_at_once: int

    def rows(self, prompts: Sequence[list[int]], settings: Sequence[GenerationSettings]) -> list[WrittenRow]:
        """One for each prompt, nothing written yet."""
        return [
            WrittenRow(
                place,
                prompt,
                one,
                WrittenText(self.decode, one.stop_texts),
                secrets.randbits(64) if one.sampling.seed is None else one.sampling.seed,
            )
            for place, (prompt, one) in enumerate(zip(prompts, settings, strict=True))
        ]

    def complete(self, rows: Sequence[WrittenRow]) -> list[Completion]:
        """Write all rows to their ends."""
        for _ in self._write(rows):
            pass
        return [self._completion(row) for row in rows]

    def pieces(self, rows: Sequence[WrittenRow], cancel: Callable[[], bool] | None = None) -> Iterator[TextPiece]:
        """The rows' texts as they become certain."""
        for row in self._write(rows, cancel):
            piece = row.text.take()
            if row.ended:
                piece += row.text.rest()
            if piece:
                yield TextPiece(row.place, piece)

    def _write(self, rows: Sequence[WrittenRow], cancel: Callable[[], bool] | None = None) -> Iterator[WrittenRow]:
        """Each row after each of its tokens."""
        by_length: dict[int, list[WrittenRow]] = defaultdict(list)
        for row in rows:
            by_length[len(row.prompt)].append(row)
        waiting = deque(
            alike[start : start + self.rows_at_once]
            for alike in by_length.values()
            for start in range(0, len(alike), self.rows_at_once)
        )
        running: deque[tuple[int, Iterator[list[WrittenRow]]]] = deque()
        while waiting or running:
            while waiting and (not running or sum(count for count, _ in running) + len(waiting[0]) <= _RUNNING_ROWS):
                running.append((len(waiting[0]), self._write_batch(waiting.popleft())))
            if cancel is not None and cancel():
                return
            count, batch = running.popleft()
            advanced = next(batch, None)
            if advanced is not None:
                running.append((count, batch))
                yield from advanced

    def _write_batch(self, rows: list[WrittenRow]) -> Iterator[list[WrittenRow]]:
        """Rows of one length, a token each at a time; a row that ends leaves."""
        reader = self.begin(len(rows))
        following = torch.tensor([row.prompt for row in rows])
        while rows:
            self._choose(rows, reader.read(following))
            yield rows
            staying = [place for place, row in enumerate(rows) if not row.ended]
            if len(staying) < len(rows):
                rows = [rows[place] for place in staying]
                if rows:
                    reader.select(staying)
            following = torch.tensor([[row.tokens[-1]] for row in rows])

    def _choose(self, rows: Sequence[WrittenRow], logits: Tensor) -> None:
        """Give each row its next token."""
        draws = torch.tensor([uniform(row.seed, len(row.tokens)) for row in rows], dtype=torch.float64)
        chosen = sample(logits, [row.settings.sampling for row in rows], draws, _seen(rows, logits))
        likelihoods = logits.float().log_softmax(dim=-1).gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        for row, token, likelihood in zip(rows, chosen.tolist(), likelihoods.tolist(), strict=True):
            row.tokens.append(token)
            row.log_probabilities.append(likelihood)
            stopped = token in self.stop_tokens
            if not stopped:
                row.text.add(token)
            row.finished = stopped or row.text.stopped
            row.ended = row.finished or len(row.tokens) >= row.settings.maximum_new_tokens

    def _completion(self, row: WrittenRow) -> Completion:
        written = row.tokens[:-1] if row.tokens[-1] in self.stop_tokens else row.tokens
        return Completion(
            text=cut(self.decode(written), row.settings.stop_texts),
            prompt_tokens=len(row.prompt),
            new_tokens=len(row.tokens),
            finished=row.finished,
            log_probabilities=row.log_probabilities if row.settings.log_probabilities else None,
        )


def _seen(rows: Sequence[WrittenRow], logits: Tensor) -> Tensor | None:
    """Tokens of each row, for repetition penalties; None when no row has one."""
    if all(row.settings.sampling.repetition_penalty == 1 for row in rows):
        return None
    seen = torch.zeros(logits.shape, dtype=torch.bool)
    for index, row in enumerate(rows):
        seen[index, row.prompt + row.tokens] = True
    return seen.to(logits.device)
