"""Texts one after another in one buffer of UTF-8 bytes, as Arrow has them: no copy, no string per text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]

#: Part of a batch that stays in the processor's cache while several loops go over it.
PART_BYTES = 1 << 19


@dataclass(frozen=True)
class TextBatch:
    """Texts as bytes. `buffer`: [bytes] UTF-8; `offsets`: [texts + 1] where each text begins in it."""

    buffer: Bytes
    offsets: Positions

    @classmethod
    def from_texts(cls, texts: Sequence[str]) -> TextBatch:
        """Encode strings; a lone surrogate, which has no UTF-8 form, becomes a question mark."""
        encoded = [text.encode("utf-8", "replace") for text in texts]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum(np.fromiter((len(text) for text in encoded), np.int64, len(encoded)), out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    @classmethod
    def from_arrow(cls, column: pa.Array | pa.ChunkedArray) -> TextBatch:
        """View a string column without copying its bytes (several chunks are joined first); nulls are empty."""
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if isinstance(column, pa.ChunkedArray):  # combine_chunks may keep chunks of over 2 GiB apart
            column = pa.concat_arrays([chunk.cast(pa.large_string()) for chunk in column.chunks])
        width = np.int64 if pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type) else np.int32
        _, offset_buffer, data = column.buffers()
        if offset_buffer is None or not len(column):
            return cls(np.zeros(0, np.uint8), np.zeros(len(column) + 1, np.int64))
        offsets = np.frombuffer(offset_buffer, width)[column.offset : column.offset + len(column) + 1].astype(np.int64)
        buffer = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
        return cls(buffer[offsets[0] : offsets[-1]], offsets - offsets[0])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> Positions:
        """[texts] bytes of each text."""
        sizes: Positions = np.diff(self.offsets)
        return sizes

    def text(self, index: int) -> str:
        """One text as a string."""
        return self.buffer[self.offsets[index] : self.offsets[index + 1]].tobytes().decode("utf-8", "replace")

    def texts(self) -> list[str]:
        """All texts as strings (for what cannot work on bytes)."""
        return [self.text(index) for index in range(len(self))]

    def slice(self, start: int, stop: int) -> TextBatch:
        """Texts `start` to `stop`, viewing the same bytes."""
        first, last = self.offsets[start], self.offsets[stop]
        return TextBatch(self.buffer[first:last], self.offsets[start : stop + 1] - first)

    def take(self, rows: Positions) -> TextBatch:
        """The texts of the given rows, in that order (copies their bytes)."""
        parts = [self.buffer[self.offsets[row] : self.offsets[row + 1]] for row in rows]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return TextBatch(np.concatenate(parts) if parts else np.zeros(0, np.uint8), offsets)

    def parts(self, maximum_bytes: int = PART_BYTES) -> Iterator[tuple[int, TextBatch]]:
        """Consecutive parts of about `maximum_bytes` (a longer text stands alone), each with its first row."""
        start = 0
        while start < len(self):
            limit = self.offsets[start] + maximum_bytes
            stop = max(start + 1, int(np.searchsorted(self.offsets, limit, side="right")) - 1)
            yield start, self.slice(start, stop)
            start = stop
