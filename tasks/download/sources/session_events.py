"""Session event logs as documents: `events+file://PATH`, `events+hf://ORG/NAME`, `events+s3://...`, JSONL or Parquet.

A session is what one user does from putting the headset on to taking it off, recorded as events on several channels
(head, controllers, gaze, voice, scene). A row is one event (`SessionEvent`):

    {"session": "s-17", "time": 12.345, "channel": "controller.right", "event": "grab",
     "values": {"object": "cup", "position": [0.1, 1.25, -0.4]}, "id": "e-901"}

    session   name of the session; events of several sessions may be interleaved in a file
    time      seconds, on any clock that runs forward within a session (a number), or an ISO 8601 date and time
    channel   what produced the event: letters, digits and `._-`
    event     what happened, in the same characters
    values    optional; names to numbers, texts, booleans, null, or flat lists of these
    id        optional; two events of a session with the same id are the same event

The document is one line an event, `+DELTA channel event name=value ...`: DELTA is the seconds since the line before
(three decimals), names are in alphabetical order, numbers are rounded to `decimals`, lists joined by commas, texts with
other than word characters quoted as JSON. The same events give the same text, on every machine.

A session is cut into documents where nothing happens for `gap_seconds` and where a document reaches
`document_characters`. Events that come up to `reorder_seconds` late are put in their place; an earlier time than that
means that the clock was set back, and begins a new document. How often each happened stands in the document's origin
(`file#session/2?lines=40&reordered=3&after=clock`). Rows that are no event, and repeated ids, are set aside.
"""

from __future__ import annotations

import bisect
import json
import math
import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tasks.download.formats import Record
from tasks.download.sources.structured_rows import StructuredFiles, rows_of

Scalar = bool | int | float | str | None
CutReason = Literal["start", "gap", "clock", "size", "memory"]
#: Sessions whose events are held at a time, and the ids remembered of each: memory stays bounded.
OPEN_SESSIONS = 4096
REMEMBERED_IDS = 65_536
_WAITING_EVENTS = 65_536
_NAME = Annotated[str, Field(pattern=r"^[\w.-]{1,100}$")]
_PLAIN_TEXT = re.compile(r"^[\w.:/-]+$")
_EXCERPT_CHARACTERS = 2_000


class SessionEvent(BaseModel):
    """One row of a session log; see the module's description of the fields."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    session: Annotated[str, Field(min_length=1, max_length=200)]
    time: float
    channel: _NAME
    event: _NAME
    values: dict[Annotated[str, Field(pattern=r"^[\w.-]{1,100}$")], Scalar | tuple[Scalar, ...]] = {}
    id: str | None = None

    @field_validator("time", mode="before")
    @classmethod
    def _seconds(cls, time: Any) -> Any:
        """ISO dates as seconds since 1970; one without an offset is taken as UTC."""
        if isinstance(time, str):
            time = datetime.fromisoformat(time)
        if isinstance(time, datetime):
            time = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
        if isinstance(time, bool) or not isinstance(time, int | float) or not math.isfinite(time):
            raise ValueError("time is no finite number of seconds and no ISO 8601 date")
        return float(time)

    @field_validator("values", mode="before")
    @classmethod
    def _pairs_as_names(cls, values: Any) -> Any:
        """Parquet's maps come as lists of pairs."""
        pairs = isinstance(values, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in values)
        return dict(values) if pairs else {} if values is None else values

    @field_validator("id", mode="before")
    @classmethod
    def _id_as_text(cls, name: Any) -> Any:
        return str(name) if isinstance(name, int) and not isinstance(name, bool) else name


class SessionLogs(StructuredFiles):
    """Timestamped multi-channel events, serialised to text session by session."""

    gap_seconds: float = Field(default=300.0, gt=0, description="a pause of so long ends a document")
    reorder_seconds: float = Field(
        default=2.0, ge=0, description="an event this late is put in its place; later, the clock was set back"
    )
    document_characters: int = Field(default=100_000, ge=200, description="a document that reaches this size ends")
    minimum_events: int = Field(default=2, ge=1, description="a shorter document is set aside")
    decimals: int = Field(default=3, ge=0, le=9, description="digits after the point of numbers in values")

    def file_records(self, path: Path, origin: str) -> Iterator[Record]:
        sessions: OrderedDict[str, _OpenSession] = OrderedDict()
        for row in rows_of(path, origin):
            if row.defect is not None:
                yield row.defect
                continue
            try:
                event = SessionEvent.model_validate(row.value)
            except (ValidationError, OverflowError) as error:
                yield Record(_excerpt(row.value), row.origin, f"no session event: {_field_at_fault(error)}")
                continue
            session = sessions.get(event.session)
            if session is None:
                session = sessions[event.session] = _OpenSession(self, f"{origin}#{event.session}")
            sessions.move_to_end(event.session)
            if session.is_repeated(event):
                yield Record(_excerpt(row.value), row.origin, "repeated event id")
                continue
            yield from session.add(event)
            if len(sessions) > OPEN_SESSIONS:
                yield from sessions.popitem(last=False)[1].end("memory")
        for session in sessions.values():
            yield from session.end("start")


@dataclass
class _OpenSession:
    """A session's document as it comes together: lines, and the last events, which late ones may still precede."""

    source: SessionLogs
    origin: str
    number: int = 0
    begun_by: CutReason = "start"
    _waiting: list[SessionEvent] = field(default_factory=list)
    _lines: list[str] = field(default_factory=list)
    _characters: int = 0
    _written_until: float | None = None
    _latest: float | None = None
    _reordered: int = 0
    _ids: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def is_repeated(self, event: SessionEvent) -> bool:
        """Whether the event's id came before in this session; remembers it."""
        if event.id is None:
            return False
        if event.id in self._ids:
            return True
        self._ids[event.id] = None
        if len(self._ids) > REMEMBERED_IDS:
            self._ids.popitem(last=False)
        return False

    def add(self, event: SessionEvent) -> Iterator[Record]:
        """Take in the next event; yields the documents that it ends."""
        if self._latest is not None:
            if event.time < self._latest - self.source.reorder_seconds:
                yield from self.end("clock")
            elif event.time - self._latest >= self.source.gap_seconds:
                yield from self.end("gap")
            elif event.time < self._latest:
                self._reordered += 1
        self._latest = event.time if self._latest is None else max(self._latest, event.time)
        # Among equal times the order of the file stays.
        bisect.insort_right(self._waiting, event, key=lambda waiting: waiting.time)
        settled = bisect.bisect_left(
            self._waiting, self._latest - self.source.reorder_seconds, key=lambda waiting: waiting.time
        )
        if len(self._waiting) - settled > _WAITING_EVENTS:  # so many at one time: later ones come after them
            settled = len(self._waiting)
        for settled_event in self._waiting[:settled]:
            self._write(settled_event)
        del self._waiting[:settled]
        if self._characters >= self.source.document_characters:
            yield from self._close("size")

    def end(self, next_begins_by: CutReason) -> Iterator[Record]:
        """The document of everything taken in so far; the next one begins anew."""
        for event in self._waiting:
            self._write(event)
        self._waiting = []
        yield from self._close(next_begins_by)
        self._latest = self._written_until = None

    def _write(self, event: SessionEvent) -> None:
        delta = 0.0 if self._written_until is None else event.time - self._written_until
        self._written_until = event.time
        line = event_line(event, delta, self.source.decimals)
        self._lines.append(line)
        self._characters += len(line) + 1

    def _close(self, next_begins_by: CutReason) -> Iterator[Record]:
        if self._lines:
            place = f"{self.origin}/{self.number}?lines={len(self._lines)}"
            place += f"&reordered={self._reordered}" if self._reordered else ""
            place += f"&after={self.begun_by}" if self.begun_by != "start" else ""
            too_short = len(self._lines) < self.source.minimum_events
            yield Record("\n".join(self._lines), place, "session of too few events" if too_short else None)
            self.number += 1
        self._lines, self._characters, self._reordered = [], 0, 0
        self.begun_by = next_begins_by


def event_line(event: SessionEvent, delta_seconds: float, decimals: int) -> str:
    """One event as text, `delta_seconds` after the one before."""
    words = [f"+{delta_seconds:.3f}", event.channel, event.event]
    words += [f"{name}={_written(event.values[name], decimals)}" for name in sorted(event.values)]
    return " ".join(words)


def _written(value: Scalar | tuple[Scalar, ...], decimals: int) -> str:
    if isinstance(value, tuple):
        return "[" + ",".join(_written(item, decimals) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _number(value, decimals)
    return value if _PLAIN_TEXT.match(value) else json.dumps(value, ensure_ascii=False)


def _number(value: float, decimals: int) -> str:
    """Rounded, without trailing zeros and without a negative zero."""
    if not math.isfinite(value):
        return str(value)
    text = f"{value:.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _field_at_fault(error: ValidationError | OverflowError) -> str:
    """The first field that is wrong: few distinct reasons, so that they can be counted."""
    if isinstance(error, ValidationError):
        place = error.errors(include_url=False, include_input=False)[0]["loc"]
        return f"field `{place[0]}`" if place else "its fields"
    return "field `time`"


def _excerpt(value: dict[str, Any]) -> str:
    return repr(value)[:_EXCERPT_CHARACTERS] if not _is_deep(value) else "(nested too deeply to show)"


def _is_deep(value: Any) -> bool:
    """Whether objects are nested more than a hundred levels."""
    level = [value]
    for _ in range(100):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True
