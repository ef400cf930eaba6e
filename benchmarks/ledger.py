"""The ledger against SQLite with synchronous=FULL: append one heartbeat, add everything up, do both again and again.

    python benchmarks/ledger.py [HEARTBEATS] [ROUNDS] [DIRECTORY]

The history is HEARTBEATS (100,000) lines in attempts of 500. Every system syncs each append to the disk of DIRECTORY
(the temporary one), whose speed is most of what an append takes, and is asked for the sum of dollars of all attempts.
SQLite runs in WAL mode, its fastest with synchronous=FULL, with one open connection and two layouts: `events` keeps
each heartbeat as we do; `attempts` overwrites one row an attempt, which keeps no history and cannot tell a damaged
byte. The systems take turns; medians over ROUNDS (300).
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from infra.budget import Ledger, OpenAttempt
from infra.budget.ledger import HEARTBEAT_SECONDS, LATER_HEARTBEAT_SECONDS
from infra.budget.ledger_events import ENDED, HEARTBEAT, STARTED, encode_event
from infra.budget.ledger_reader import LedgerReader

BEATS_AN_ATTEMPT = 500
IDENTITY = {"run_id": "r" * 36, "profile": "smoke", "stage": "train", "provider": "lambda", "usd_per_hour": 12.0,
            "currency": "USD", "machine": "host-0a1b2c"}  # fmt: skip


class Ours:
    """The ledger of the pipeline."""

    def __init__(self, directory: Path, attempts: int) -> None:
        self.ledger = Ledger(directory / "ledger.jsonl")
        with self.ledger.path.open("wb") as stream:
            for index in range(attempts):
                name = f"{index:032x}"
                stream.write(encode_event({"event": STARTED, "attempt": name, "time": 1.8e9, **IDENTITY}))
                for beat in range(BEATS_AN_ATTEMPT):
                    seconds = 15.0 * beat + 0.123456
                    stream.write(
                        encode_event({"event": HEARTBEAT, "attempt": name, "time": 1.8e9 + seconds, "elapsed": seconds})
                    )
                ended = {"time": 1.8e9 + 7500, "elapsed": 7500.0, "outcome": "completed", "started": 1.8e9}
                stream.write(encode_event({"event": ENDED, "attempt": name, **ended, **IDENTITY}))
        self.open = OpenAttempt(f"{0:032x}")

    def append(self) -> None:
        self.ledger._append(HEARTBEAT, self.open, time.time(), elapsed=7500.0)

    def total(self) -> float:
        return self.ledger.total_usd()

    def total_from_nothing(self) -> float:
        return sum(attempt.usd for attempt in LedgerReader(self.ledger.path).attempts())


class Sqlite:
    """One of two layouts."""

    def __init__(self, directory: Path, attempts: int, *, keeps_events: bool) -> None:
        self.path = directory / f"{'events' if keeps_events else 'attempts'}.db"
        self.keeps_events = keeps_events
        self.connection = self._connect()
        self.connection.execute("CREATE TABLE attempts (id TEXT PRIMARY KEY, usd_per_hour REAL, elapsed REAL)")
        self.connection.execute("CREATE TABLE events (attempt TEXT, time REAL, elapsed REAL)")
        self.connection.execute("CREATE INDEX by_attempt ON events (attempt, elapsed)")
        with self.connection:
            names = [f"{index:032x}" for index in range(attempts)]
            self.connection.executemany("INSERT INTO attempts VALUES (?, 12.0, 7500.0)", [(name,) for name in names])
            if keeps_events:
                beats = ((name, 1.8e9, 15.0 * beat) for name in names for beat in range(BEATS_AN_ATTEMPT + 1))
                self.connection.executemany("INSERT INTO events VALUES (?, ?, ?)", beats)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def append(self) -> None:
        with self.connection:
            if self.keeps_events:
                self.connection.execute("INSERT INTO events VALUES (?, ?, 7500.0)", (f"{0:032x}", time.time()))
            else:
                # Another value every time, in the last digits: SQLite does not write what is there already.
                update = "UPDATE attempts SET elapsed = 7500.0 + ? WHERE id = ?"
                self.connection.execute(update, (time.time() % 1000 * 1e-6, f"{0:032x}"))

    def total(self) -> float:
        return self._total(self.connection)

    def total_from_nothing(self) -> float:
        connection = self._connect()
        try:
            return self._total(connection)
        finally:
            connection.close()

    def _total(self, connection: sqlite3.Connection) -> float:
        if self.keeps_events:
            query = (
                "SELECT SUM(usd_per_hour / 3600 * (SELECT MAX(elapsed) FROM events WHERE attempt = id)) FROM attempts"
            )
        else:
            query = "SELECT SUM(usd_per_hour / 3600 * elapsed) FROM attempts"
        return float(connection.execute(query).fetchone()[0])


def medians(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, do in work.items():
            began = time.perf_counter()
            do()
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def report(title: str, seconds: dict[str, float]) -> None:
    """One line a system; the ratio is its time over ours: above 1, ours is faster."""
    print(f"\n{title}")
    for name, value in seconds.items():
        print(f"  {name:<36}{1000 * value:>12.3f} ms{value / seconds['ours']:>10.3g} x ours")


def main(heartbeats: int, rounds: int, place: Path) -> None:
    """Print the table."""
    attempts = heartbeats // BEATS_AN_ATTEMPT
    with tempfile.TemporaryDirectory(dir=place) as directory:
        ours = Ours(Path(directory), attempts)
        peers = {
            "ours": ours,
            "sqlite, events": Sqlite(Path(directory), attempts, keeps_events=True),
            "sqlite, attempts": Sqlite(Path(directory), attempts, keeps_events=False),
        }
        totals = {name: peer.total() for name, peer in peers.items()}
        assert max(totals.values()) - min(totals.values()) < 1e-6 * max(totals.values()), totals
        print(f"{heartbeats:,} heartbeats in {attempts:,} attempts, {ours.ledger.path.stat().st_size / 1e6:.1f} MB")
        report("append one heartbeat, synced", medians({name: peer.append for name, peer in peers.items()}, rounds))
        report("sum of all dollars, nothing new", medians({name: peer.total for name, peer in peers.items()}, rounds))
        report("append, then sum", medians({name: both(peer) for name, peer in peers.items()}, rounds))
        cold = {name: peer.total_from_nothing for name, peer in peers.items()}
        report("sum of all dollars, in a new process", medians(cold, max(3, rounds // 60)))
    year = 365 * 86400
    line = len(
        encode_event({"event": HEARTBEAT, "attempt": "0" * 32, "time": 1.8e9 + 0.123456, "elapsed": 1234.123456})
    )
    for interval in (HEARTBEAT_SECONDS, LATER_HEARTBEAT_SECONDS):
        print(f"\na year of heartbeats every {interval:.0f} s: {year / interval:,.0f} lines of {line} bytes, "
              f"{year / interval * line / 1e9:.2f} GB")  # fmt: skip


def both(peer: Ours | Sqlite) -> Callable[[], float]:
    """Append and sum, as the guard does every few seconds."""

    def work() -> float:
        peer.append()
        return peer.total()

    return work


if __name__ == "__main__":
    arguments = [*sys.argv[1:], *("100000", "300", tempfile.gettempdir())[len(sys.argv) - 1 :]]
    main(int(arguments[0]), int(arguments[1]), Path(arguments[2]))
