"""Conversations as token shards, with beside each another of the same lengths that marks the answers' tokens by 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tasks.finetuning.chat_template import ChatTemplate, Piece, UnwritableConversation
from tasks.tokenization.token_shards import open_token_shard, shard_files, token_dtype

ANSWERS_SUFFIX = "-answers"
TRUNCATED = "cut to the context"
_AT_ONCE = 256
Messages = Sequence[dict[str, str]]
ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class EncodedConversation:
    """Token ids `[tokens]` and 1 for each that is the assistant's (its text and its end-of-turn token), else 0."""

    tokens: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]


class ConversationEncoder:
    """Writes conversations by a template and encodes them as `apply_chat_template(tokenize=True)` does."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, maximum_tokens: int) -> None:
        """Conversations are cut to `maximum_tokens`. The tokenizer must take special tokens in text as such."""
        self._tokenizer = tokenizer
        self._template = template
        self._maximum = maximum_tokens
        self.left_out: Counter[str] = Counter()

    def encode(self, conversations: Iterable[Messages]) -> Iterator[EncodedConversation]:
        """Those that can be learnt from; the others, and those that were cut, are counted in `left_out`."""
        for group in groups_of(conversations):
            written = [self._pieces(messages) for messages in group]
            yield from self._encoded([pieces for pieces in written if pieces])

    def _pieces(self, messages: Messages) -> list[Piece]:
        try:
            return self._template.pieces(messages)
        except UnwritableConversation as error:
            self.left_out[str(error)] += 1
            return []

    def _encoded(self, group: list[list[Piece]]) -> Iterator[EncodedConversation]:
        whole = self._ids(["".join(piece.text for piece in pieces) for pieces in group])
        parts = self._ids([piece.text for pieces in group for piece in pieces])
        bounds = np.cumsum([0, *(len(pieces) for pieces in group)]).tolist()
        for pieces, ids, (first, last) in zip(group, whole, pairwise(bounds), strict=True):
            own = parts[first:last]
            if [token for part in own for token in part] != ids:
                # Generation starts where the question's tokens end; training must have seen that border.
                self.left_out["a token runs across the border of a turn"] += 1
                continue
            answers = np.repeat([int(piece.is_answer) for piece in pieces], [len(part) for part in own])
            if len(ids) > self._maximum:
                self.left_out[TRUNCATED] += 1
            tokens, answers = np.array(ids, np.int64)[: self._maximum], answers[: self._maximum]
            if answers[1:].any():
                yield EncodedConversation(tokens, answers)
            else:
                self.left_out["its answers lie beyond the context"] += 1

    def _ids(self, texts: list[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def chat_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file, reading special tokens in a text as such, as a rendered template needs."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = False
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def write_encoded(conversations: Iterable[EncodedConversation], prefix: Path, vocabulary_size: int) -> list[Path]:
    """Write both shards, each whole or not at all; returns their files."""
    dtype, marks = token_dtype(vocabulary_size), token_dtype(2)
    answers_prefix = answers_of(prefix)
    with ExitStack() as stack:
        tokens = stack.enter_context(open_token_shard(prefix, dtype))
        answers = stack.enter_context(open_token_shard(answers_prefix, marks))
        for group in groups_of(conversations):
            sources = np.zeros(len(group), np.int64)
            sizes = np.zeros(len(group), np.int64)
            tokens.append([one.tokens.astype(dtype) for one in group], sources, sizes)
            answers.append([one.answers.astype(marks) for one in group], sources, sizes)
    return [*shard_files(prefix), *shard_files(answers_prefix)]


def answers_of(prefix: Path) -> Path:
    """The shard that marks the answers in the shard at `prefix`."""
    return prefix.with_name(prefix.name + ANSWERS_SUFFIX)


def groups_of(items: Iterable[ItemT], size: int = _AT_ONCE) -> Iterator[list[ItemT]]:
    """Items a few at a time."""
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group
