"""The ledger: truncated at any byte it still reads; killed attempts are charged; writers do not mix."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from infra.budget import ComputePrice, Ledger, check_ceiling
from infra.budget import ledger as ledger_module
from infra.errors import BudgetExceeded

PRICE = ComputePrice(usd_per_hour=3600.0)  # one dollar a second


def record(ledger: Ledger, stage: str, seconds: float = 0.0, run_id: str = "run") -> None:
    with ledger.attempt(run_id=run_id, profile="smoke", stage=stage, price=PRICE):
        time.sleep(seconds)


def test_completed_failed_and_totals(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    record(ledger, "download", 0.2)
    with pytest.raises(ValueError), ledger.attempt(run_id="run", profile="smoke", stage="train", price=PRICE):
        raise ValueError
    record(ledger, "train", 0.1, run_id="other")
    assert [a.outcome for a in ledger.attempts()] == ["completed", "failed", "completed"]
    by_stage = {row.key: row for row in ledger.spend_by("stage")}
    assert by_stage["train"].attempts == 2
    assert ledger.total_usd() == pytest.approx(0.3, abs=0.15)
    assert ledger.total_usd(run_id="other") == pytest.approx(0.1, abs=0.08)
    assert sum(row.usd for row in ledger.spend_by("day")) == pytest.approx(ledger.total_usd())


def test_truncation_at_every_offset_loses_at_most_the_torn_line(tmp_path: Path) -> None:
    whole = Ledger(tmp_path / "whole.jsonl")
    for stage in ("a", "b"):
        record(whole, stage)
    data = whole.path.read_bytes()
    complete_lines = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for offset in range(len(data) + 1):
        cut = Ledger(tmp_path / "cut.jsonl")
        cut.path.write_bytes(data[:offset])
        lines = sum(1 for end in complete_lines if end <= offset)
        # A line is also whole when only its newline is missing.
        lines += any(end - 1 == offset for end in complete_lines)
        assert len(cut.attempts()) == (lines + 1) // 2
        record(cut, "after")
        after = cut.attempts()
        assert after[-1].stage == "after"
        assert after[-1].outcome == "completed"
        assert len(after) == (lines + 1) // 2 + 1


def hold_attempt(path: str) -> None:
    ledger_module.HEARTBEAT_SECONDS = 0.05
    with Ledger(Path(path)).attempt(run_id="run", profile="smoke", stage="train", price=PRICE):
        time.sleep(60)


def test_killed_attempt_is_charged_to_its_last_heartbeat(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    child = multiprocessing.get_context("fork").Process(target=hold_attempt, args=(str(path),))
    child.start()
    time.sleep(1.0)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    (attempt,) = Ledger(path).attempts()
    assert attempt.outcome == "interrupted"
    assert 0.4 < attempt.seconds < 1.5
    assert Ledger(path).total_usd() == pytest.approx(attempt.seconds)


def write_many(path: str, writer: int) -> None:
    for index in range(25):
        with Ledger(Path(path)).attempt(run_id=f"w{writer}", profile="p", stage=str(index), price=PRICE):
            pass


def test_concurrent_writers_keep_every_line_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=write_many, args=(str(path), n)) for n in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    ledger = Ledger(path)
    assert len(ledger.attempts()) == 100
    assert ledger.damaged_lines() == 0


def test_edited_line_is_not_believed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    record(ledger, "train")
    ledger.path.write_bytes(ledger.path.read_bytes().replace(b"3600.0", b"0.0000"))
    assert ledger.attempts() == []
    assert ledger.damaged_lines() == 1


def test_ceiling_stops_the_next_stage(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    check_ceiling(ledger, "smoke", 0.05, "train")
    record(ledger, "download", 0.1)
    with pytest.raises(BudgetExceeded, match=r"'train' was not started"):
        check_ceiling(ledger, "smoke", 0.05, "train")
    check_ceiling(ledger, "smoke", None, "train")
    check_ceiling(ledger, "another-profile", 0.05, "train")
