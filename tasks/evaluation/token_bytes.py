"""From token ids back to the exact bytes of the text, for whole corpora at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from infra.errors import ConfigurationError


@dataclass(frozen=True)
class TokenBytes:
    """The bytes of every token of a byte-level BPE; special tokens have none."""

    flat: npt.NDArray[np.uint8]  # all tokens' bytes, end to end
    starts: npt.NDArray[np.int64]  # [vocabulary]
    lengths: npt.NDArray[np.int64]  # [vocabulary]

    @classmethod
    def from_file(cls, path: Path) -> TokenBytes:
        """Read a `tokenizer.json`; raises ConfigurationError when it is not a byte-level BPE."""
        document = json.loads(path.read_text(encoding="utf-8"))
        decoder = document.get("decoder") or {}
        if document["model"].get("type") != "BPE" or decoder.get("type") != "ByteLevel":
            raise ConfigurationError(
                f"tokenizer '{path}' is not a byte-level BPE, so bits per byte cannot be exact.",
                "train the tokenizer with the tokenization stage, or take a byte-level one (GPT-2, Llama 3).",
            )
        contents = {index: _decode(token) for token, index in document["model"]["vocab"].items()}
        for entry in document.get("added_tokens", []):
            contents[entry["id"]] = b"" if entry["special"] else entry["content"].encode()
        table = [contents.get(index, b"") for index in range(max(contents) + 1)]
        lengths = np.array([len(token) for token in table], np.int64)
        return cls(np.frombuffer(b"".join(table), np.uint8), np.cumsum(lengths) - lengths, lengths)

    def expand(self, tokens: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """The text of `tokens` as bytes."""
        lengths = self.lengths[tokens]
        ends = np.cumsum(lengths)
        if len(ends) == 0:
            return np.zeros(0, np.uint8)
        # Byte j of token i stands at starts[token i] + j; j is the place in the text less the token's own start.
        shifts = np.repeat(self.starts[tokens] - (ends - lengths), lengths)
        text: npt.NDArray[np.uint8] = self.flat[shifts + np.arange(ends[-1])]
        return text


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return alphabet | {chr(256 + place): byte for place, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _decode(token: str) -> bytes:
    if all(character in _ALPHABET for character in token):
        return bytes(_ALPHABET[character] for character in token)
    return token.encode()  # an added token that stands in the vocabulary as plain text
