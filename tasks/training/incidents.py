"""What went wrong while a stage trained and what was done about it, in a file that outlives every attempt."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.storage.local import FULL_DISK


@dataclass(frozen=True)
class Incident:
    """One incident. step: updates done when it was noticed; kind, detail, action: for people; time: Unix seconds."""

    step: int
    kind: str
    detail: str
    action: str
    time: float

    @classmethod
    def now(cls, step: int, kind: str, detail: str, action: str) -> Incident:
        """An incident of this moment."""
        return cls(step, kind, detail, action, round(time.time(), 1))

    @classmethod
    def of_event(cls, event: Mapping[str, Any]) -> Incident:
        """The incident that a trainer's event tells of."""
        return cls.now(event["step"], event["kind"], event["detail"], event["action"])

    def describe(self) -> str:
        """One line for the log."""
        return f"{self.kind} at update {self.step}: {self.detail}; {self.action}"


class IncidentLog:
    """Appended to by the supervising process alone.

    A full disk is one of the things it records: what cannot be written now is written with the next one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unwritten: list[Incident] = []

    def add(self, incident: Incident) -> None:
        """Write one line, apart from one that a crash or a full disk may have torn."""
        self._unwritten.append(incident)
        self.flush()

    def flush(self) -> None:
        """Write what could not be written before, if that is possible now."""
        if not self._unwritten:
            return
        lines = "".join("\n" + json.dumps(asdict(incident)) + "\n" for incident in self._unwritten)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as stream:
                stream.write(lines)
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            return
        self._unwritten.clear()

    def read(self) -> list[dict[str, Any]]:
        """All incidents on disk, oldest first; a torn line is left out, one written twice is told once."""
        if not self._path.exists():
            return []
        found = []
        for line in self._path.read_text().splitlines():
            try:
                incident = json.loads(line)
            except ValueError:
                continue
            if incident not in found:
                found.append(incident)
        return found
