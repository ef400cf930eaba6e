"""A ledger in an empty directory, and a clock that can be set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.budget import Ledger, ledger_attempt
from infra.budget import ledger as ledger_module


@dataclass
class Clock:
    """The wall clock and the monotonic clock that the ledger reads."""

    wall: float = 1_800_000_000.0
    monotonic: float = 50.0

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.jsonl")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Only the ledger's clocks: threads wait by the real one."""
    clock = Clock()

    class Time:
        time = staticmethod(lambda: clock.wall)
        monotonic = staticmethod(lambda: clock.monotonic)
        sleep = staticmethod(lambda seconds: None)

    monkeypatch.setattr(ledger_module, "time", Time)
    monkeypatch.setattr(ledger_attempt, "time", Time)
    return clock
