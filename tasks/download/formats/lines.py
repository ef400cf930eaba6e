"""Lines of a byte stream in blocks, with bounded memory whatever the stream holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from tasks.download.formats.record import EXCERPT_BYTES, DefectiveRecord, rejected

BLOCK_BYTES = 1 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class LineBlock:
    """Consecutive lines without their line feeds; number and byte position of the first."""

    lines: list[bytes]
    number: int
    position: int


@dataclass(frozen=True)
class LongLine:
    """A line over the limit: its beginning and its size; the rest was read and forgotten."""

    excerpt: bytes
    number: int
    position: int
    size_bytes: int

    def record(self, origin: str) -> DefectiveRecord:
        """The defect that stands for the line."""
        return rejected(self.excerpt, f"{origin}:{self.number}", "line over the size limit", self.size_bytes)


def read_lines(
    stream: BinaryIO, longest_bytes: int, first_number: int = 1, position: int = 0
) -> Iterator[LineBlock | LongLine]:
    """All lines in order; holds one block and one line of at most `longest_bytes`.

    `first_number` and `position` are those of the stream's first line in its file. A byte order mark
    at the beginning of the file is left out.
    """
    number = first_number
    held: list[bytes] = []
    held_bytes = 0
    skipped: LongLine | None = None
    while block := stream.read(BLOCK_BYTES):
        end = block.rfind(b"\n")
        if skipped is not None:
            end_of_line = block.find(b"\n")
            if end_of_line < 0:
                held_bytes += len(block)
                continue
            yield LongLine(skipped.excerpt, number, position, held_bytes + end_of_line)
            number, position = number + 1, position + held_bytes + end_of_line + 1
            skipped, held_bytes = None, 0
            block, end = block[end_of_line + 1 :], end - end_of_line - 1
        if end >= 0:
            held.append(block[:end])
            data = b"".join(held)
            lines = _without_mark(data, position).split(b"\n")
            yield from _within_limit(LineBlock(lines, number, position), longest_bytes)
            number, position = number + len(lines), position + len(data) + 1
            held, held_bytes = [], 0
            block = block[end + 1 :]
        if block:
            held.append(block)
            held_bytes += len(block)
            if held_bytes > longest_bytes:
                skipped = LongLine(b"".join(held)[:EXCERPT_BYTES], number, position, 0)
                held = []
    if skipped is not None:
        yield LongLine(skipped.excerpt, number, position, held_bytes)
    elif held:
        last = _without_mark(b"".join(held), position)
        yield from _within_limit(LineBlock([last], number, position), longest_bytes)


def _without_mark(data: bytes, position: int) -> bytes:
    return data.removeprefix(BYTE_ORDER_MARK) if position == 0 else data


def _within_limit(block: LineBlock, longest_bytes: int) -> Iterator[LineBlock | LongLine]:
    """The block as it is, or cut around its long lines."""
    if max(map(len, block.lines)) <= longest_bytes:
        yield block
        return
    start, position = 0, block.position
    begin = position
    for index, line in enumerate(block.lines):
        if len(line) > longest_bytes:
            if index > start:
                yield LineBlock(block.lines[start:index], block.number + start, begin)
            yield LongLine(line[:EXCERPT_BYTES], block.number + index, position, len(line))
            start, begin = index + 1, position + len(line) + 1
        position += len(line) + 1
    if start < len(block.lines):
        yield LineBlock(block.lines[start:], block.number + start, begin)
