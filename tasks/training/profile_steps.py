"""Which updates are profiled, as a person writes it: "10-12" or "10,50-52"."""

from __future__ import annotations

import itertools
import re

_RANGE = re.compile(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*")


def parse_steps(text: str) -> list[range]:
    """The ranges of updates, ascending; updates are counted from 1, both ends are included; none for an empty text.

    Raises:
        ValueError: a part is no number or range, a range is empty, or two overlap.
    """
    ranges = [_parse_range(part) for part in text.split(",")] if text.strip() else []
    ranges.sort(key=lambda steps: steps.start)
    for one, following in itertools.pairwise(ranges):
        if following.start < one.stop:
            raise ValueError(f"'{text}' names update {following.start} twice; write each update once")
    return ranges


def _parse_range(part: str) -> range:
    match = _RANGE.fullmatch(part)
    if match is None:
        raise ValueError(f"'{part}' is neither an update nor a range; write e.g. 10-12 or 10,50-52")
    first, last = int(match[1]), int(match[2] or match[1])
    if first < 1 or last < first:
        raise ValueError(f"'{part.strip()}' is no range of updates; they are counted from 1, the first one first")
    return range(first, last + 1)
