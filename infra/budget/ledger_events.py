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

from infra.artifacts.manifest import canonical_json
from infra.storage.checksum import checksum_bytes

STARTED, HEARTBEAT, ENDED = "started", "heartbeat", "ended"
#: What an attempt cannot be charged without.
IDENTITY = ("run_id", "profile", "stage", "provider", "usd_per_hour")
_ALWAYS = ("event", "attempt", "time")
_CHECKSUM_DIGITS = 16

Event = dict[str, Any]


def encode_event(event: Event) -> bytes:
    """The event as one line, newline included."""
    body = canonical_json(event)
    return _checksum(body) + b" " + body + b"\n"


def decode_event(line: bytes) -> Event | None:
    """The event of a line without its newline; None when the line is torn, damaged or not one of ours."""
    stated, _, body = line.partition(b" ")
    if stated != _checksum(body):
        return None
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(event, dict) or not all(name in event for name in _ALWAYS):
        return None
    if event["event"] == STARTED and not all(name in event for name in IDENTITY):
        return None
    return event


def _checksum(body: bytes) -> bytes:
    return checksum_bytes(body).partition(":")[2][:_CHECKSUM_DIGITS].encode()
