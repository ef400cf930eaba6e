"""One event of the ledger as a line of text: sixteen hex digits of checksum, a space, canonical JSON.

    started    attempt, time, run_id, profile, stage, provider, usd_per_hour, currency, machine
    heartbeat  attempt, time, elapsed
    ended      attempt, time, elapsed, outcome, and everything of `started` again (its time as `started`)

`time` is Unix seconds by the wall clock, `elapsed` seconds since the start by the monotonic clock.
`ended` repeats the start, so that a damaged `started` line does not lose what a finished attempt cost.
Lines of older ledgers lack `elapsed`, `currency`, `machine` and the repetition; they are read as they are.
"""

from __future__ import annotations

from typing import Any

import orjson
import xxhash

from infra.artifacts.manifest import canonical_json

STARTED, HEARTBEAT, ENDED = "started", "heartbeat", "ended"
#: What an attempt cannot be charged without.
IDENTITY = frozenset({"run_id", "profile", "stage", "provider", "usd_per_hour"})
_ALWAYS = frozenset({"event", "attempt", "time"})
_NEEDED = {STARTED: IDENTITY, ENDED: frozenset({"outcome"})}
_CHECKSUM_DIGITS = 16

Event = dict[str, Any]


def encode_event(event: Event) -> bytes:
    """The event as one line, newline included."""
    body = canonical_json(event)
    return _checksum(body) + b" " + body + b"\n"


def decode_event(line: bytes) -> Event | None:
    """The event of a line without its newline; None when the line is torn, damaged or not one of ours."""
    body = line[_CHECKSUM_DIGITS + 1 :]
    if line[: _CHECKSUM_DIGITS + 1] != _checksum(body) + b" ":
        return None
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(event, dict) or not event.keys() >= _ALWAYS:
        return None
    if not event.keys() >= _NEEDED.get(event["event"], frozenset()):
        return None
    return event


def _checksum(body: bytes) -> bytes:
    return xxhash.xxh3_128_hexdigest(body)[:_CHECKSUM_DIGITS].encode()
