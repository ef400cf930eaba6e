"""A ledger cut and flipped at every byte, replaced and shortened: what is whole is read, the rest counted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from infra.budget import Attempt, ComputePrice, Ledger
from infra.budget import ledger as ledger_module
from infra.budget.ledger_events import decode_event, encode_event
from infra.budget.ledger_reader import LedgerReader

PRICE = ComputePrice(usd_per_hour=3600.0)


def record(ledger: Ledger, stage: str) -> None:
    with ledger.attempt(run_id="run", profile="smoke", stage=stage, price=PRICE):
        pass


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cuts are made here: waiting for the disk thousands of times would show nothing more."""
    monkeypatch.setattr(ledger_module.os, "fsync", lambda descriptor: None)


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Three attempts, one failed and one never closed, with heartbeats."""
    ledger = Ledger(tmp_path / "real.jsonl")
    monkeypatch.setattr(ledger_module, "HEARTBEAT_SECONDS", 0.01)
    with ledger.attempt(run_id="run", profile="smoke", stage="download", price=PRICE):
        while ledger.path.read_bytes().count(b"heartbeat") < 2:
            pass
    monkeypatch.setattr(ledger_module, "HEARTBEAT_SECONDS", 60.0)
    with pytest.raises(ValueError), ledger.attempt(run_id="run", profile="smoke", stage="train", price=PRICE):
        raise ValueError
    record(ledger, "killed")
    data = ledger.path.read_bytes()
    return data[: data[:-1].rindex(b"\n") + 1]  # without the last `ended`


def read(path: Path) -> tuple[list[Attempt], int]:
    """By a reader that has seen nothing yet, as a new process would."""
    reader = LedgerReader(path)
    return reader.attempts(), reader.damaged_lines()


def test_a_cut_at_every_byte_loses_nothing_that_was_whole(tmp_path: Path, real: bytes) -> None:
    path = tmp_path / "cut.jsonl"
    ends = [0, *(place + 1 for place, byte in enumerate(real) if byte == 0x0A)]
    expected: dict[int, list[Attempt]] = {}
    for end in ends:
        path.write_bytes(real[:end])
        expected[end], damaged = read(path)
        assert damaged == 0
    assert [a.outcome for a in expected[ends[-1]]] == ["completed", "failed", "interrupted"]
    standing = LedgerReader(path)  # one that watches the file shrink and grow
    for offset in range(len(real), -1, -1):
        path.write_bytes(real[:offset])
        # A line that lacks only its newline is whole.
        whole = max(end for end in ends if end <= offset + 1)
        torn = int(offset not in ends and offset + 1 not in ends)
        assert read(path) == (expected[whole], torn)
        assert (standing.attempts(), standing.damaged_lines()) == (expected[whole], torn)
        record(Ledger(path), "after")
        attempts, damaged = read(path)
        assert (attempts[:-1], damaged) == (expected[whole], torn)
        assert (attempts[-1].stage, attempts[-1].outcome) == ("after", "completed")


def test_a_flip_of_any_bit_is_noticed_and_believed_by_nobody(tmp_path: Path, real: bytes) -> None:
    path = tmp_path / "flipped.jsonl"
    path.write_bytes(real)
    truth = {attempt.attempt_id: attempt for attempt in read(path)[0]}
    with path.open("r+b", buffering=0) as stream:
        for place, byte in enumerate(real):
            for bit in range(8) if place % 16 == 0 else (place % 8,):  # every byte; every bit of every sixteenth
                os.pwrite(stream.fileno(), bytes([byte ^ 1 << bit]), place)
                attempts, damaged = read(path)
                assert damaged >= 1, (place, bit)
                assert all(is_weaker(attempt, truth[attempt.attempt_id]) for attempt in attempts), (place, bit)
            os.pwrite(stream.fileno(), bytes([byte]), place)


def is_weaker(attempt: Attempt, true: Attempt) -> bool:
    """Whether an attempt says less than the truth, and nothing else: what is charged is what was measured."""
    same = ("run_id", "profile", "stage", "provider", "usd_per_hour", "started", "machine")
    return (
        all(getattr(attempt, name) == getattr(true, name) for name in same)
        and attempt.usd <= true.usd
        and attempt.outcome in (true.outcome, "interrupted")
    )


def test_a_finished_attempt_survives_the_loss_of_its_first_line(tmp_path: Path, real: bytes) -> None:
    path = tmp_path / "headless.jsonl"
    path.write_bytes(real)
    whole = read(path)[0]
    path.write_bytes(b"X" + real[1:])
    assert read(path) == (whole, 1)


def test_an_attempt_that_nobody_can_price_is_counted(tmp_path: Path, real: bytes) -> None:
    """Its start is edited by hand, and it was never closed."""
    path = tmp_path / "ledger.jsonl"
    lines = real.splitlines(keepends=True)
    start = next(index for index, line in enumerate(lines) if b'"killed"' in line)
    lines[start] = lines[start].replace(b"3600.0", b"0.0000")
    beat = encode_event({"event": "heartbeat", "attempt": _attempt_of(lines[start]), "time": 1.0, "elapsed": 2.0})
    path.write_bytes(b"".join(lines) + beat)
    reader = LedgerReader(path)
    assert [a.stage for a in reader.attempts()] == ["download", "train"]
    assert (reader.damaged_lines(), reader.unpriced_attempts()) == (1, 1)


def _attempt_of(line: bytes) -> str:
    return str(json.loads(line.partition(b" ")[2])["attempt"])


@pytest.mark.parametrize(
    "body",
    [
        [1],
        "text",
        {"event": "started"},
        {"event": "started", "attempt": "a", "time": 1},
        {"event": "ended", "attempt": "a", "time": 1},
    ],
)
def test_what_no_writer_of_ours_wrote_is_damage_not_a_crash(tmp_path: Path, body: Any) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(encode_event(body))
    assert read(path) == ([], 1)


def test_only_what_is_new_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from infra.budget import ledger_reader as module

    decoded = []
    monkeypatch.setattr(module, "decode_event", lambda line: decoded.append(line) or decode_event(line))
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for stage in "abc":
        record(ledger, stage)
    assert len(ledger.attempts()) == 3 and len(decoded) == 6
    assert len(Ledger(ledger.path).attempts()) == 3 and len(decoded) == 6
    record(ledger, "d")
    assert ledger.total_usd() > 0 and len(decoded) == 8


def test_a_replaced_a_shortened_and_a_removed_ledger_are_read_anew(tmp_path: Path) -> None:
    ledger, other = Ledger(tmp_path / "ledger.jsonl"), Ledger(tmp_path / "other.jsonl")
    for stage in "abc":
        record(ledger, stage)
    for stage in "defgh":
        record(other, stage)
    assert len(ledger.attempts()) == 3
    longer = other.path.read_bytes()
    other.path.replace(ledger.path)
    assert [a.stage for a in ledger.attempts()] == list("defgh")
    ledger.path.write_bytes(longer[: longer.index(b"\n") + 1])  # the same inode, shorter
    assert [a.outcome for a in ledger.attempts()] == ["interrupted"]
    ledger.path.write_bytes(longer[longer.index(b"\n") + 1 :])  # the same inode, longer, other content
    assert [(a.stage, a.outcome) for a in ledger.attempts()] == [(stage, "completed") for stage in "defgh"]
    ledger.path.unlink()
    assert ledger.attempts() == [] and ledger.damaged_lines() == 0
    record(ledger, "new")
    assert [a.stage for a in ledger.attempts()] == ["new"]
