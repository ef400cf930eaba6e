"""Text by a `tokenizer.json`: what the formats that come with one share."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from model.interface.contract import ModelInterface


class TokenizerText(ModelInterface):
    """`separator` is the token that ends a document and so also opens one."""

    def __init__(self, tokenizer: Tokenizer, separator: int) -> None:
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

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, in the tokenizer's own threads."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special ones left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
