"""The ledger: every end is recorded with what it cost, whatever the clock, the disk and the price do meanwhile."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from infra.budget import ComputePrice, Ledger, OpenAttempt, Outcome
from infra.budget import ledger as ledger_module
from infra.budget.ledger import heartbeat_interval
from infra.errors import StorageFull
from tests.infra.budget.conftest import Clock

PRICE = ComputePrice(usd_per_hour=3600.0)  # one dollar a second


def record(ledger: Ledger, clock: Clock, stage: str, seconds: float, run_id: str = "run") -> None:
    with ledger.attempt(run_id=run_id, profile="smoke", stage=stage, price=PRICE):
        clock.passes(seconds)


def test_totals_are_the_attempts_seconds_at_their_price(ledger: Ledger, clock: Clock) -> None:
    record(ledger, clock, "download", 2.0)
    with pytest.raises(ValueError), ledger.attempt(run_id="run", profile="smoke", stage="train", price=PRICE):
        clock.passes(3.0)
        raise ValueError
    record(ledger, clock, "train", 5.0, run_id="other")
    assert [(a.outcome, a.seconds, a.usd) for a in ledger.attempts()] == [
        ("completed", 2.0, 2.0), ("failed", 3.0, 3.0), ("completed", 5.0, 5.0)
    ]  # fmt: skip
    by_stage = {row.key: row for row in ledger.spend_by("stage")}
    assert (by_stage["train"].attempts, by_stage["train"].usd, by_stage["train"].wasted_usd) == (2, 8.0, 3.0)
    assert (ledger.total_usd(), ledger.total_usd(run_id="other"), ledger.total_usd(profile="none")) == (10.0, 5.0, 0)


class _Suspended(Exception):
    pass


@pytest.mark.parametrize(
    ("set_to", "error", "expected"),
    [
        (None, None, "completed"), ("reused", None, "reused"), ("suspended", None, "suspended"),
        (None, ValueError("x"), "failed"), ("reused", ValueError("x"), "failed"),
        ("suspended", _Suspended(), "suspended"), (None, KeyboardInterrupt(), "interrupted"),
        (None, SystemExit(143), "interrupted"),
    ],
)  # fmt: skip
def test_every_end_has_its_outcome(
    ledger: Ledger, set_to: Outcome | None, error: BaseException | None, expected: str
) -> None:
    def attempt() -> None:
        with ledger.attempt(run_id="r", profile="p", stage="s", price=PRICE) as opened:
            opened.outcome = set_to or opened.outcome
            if error is not None:
                raise error

    if error is None:
        attempt()
    else:
        with pytest.raises(type(error)):
            attempt()
    assert [a.outcome for a in ledger.attempts()] == [expected]


def test_price_provider_machine_and_currency_are_those_of_the_time(
    ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAM2_MACHINE", "desk")
    record(ledger, clock, "train", 2.0)
    monkeypatch.delenv("SAM2_MACHINE")
    dearer = ComputePrice(provider="lambda", usd_per_hour=7200.0)
    with ledger.attempt(run_id="run", profile="smoke", stage="train", price=dearer):
        clock.passes(2.0)
    first, second = ledger.attempts()
    assert (first.machine, first.provider, first.usd, first.currency) == ("desk", "own-machine", 2.0, "USD")
    assert (second.provider, second.usd) == ("lambda", 4.0)
    assert second.machine.startswith("host-") and os.uname().nodename not in second.machine


@pytest.mark.parametrize("step", [-86_400.0, -30.0, 30.0, 86_400.0])
def test_a_step_of_the_wall_clock_changes_no_charge(ledger: Ledger, clock: Clock, step: float) -> None:
    with ledger.attempt(run_id="run", profile="smoke", stage="train", price=PRICE):
        clock.passes(10.0)
        clock.wall += step
        clock.passes(10.0)
    assert ledger.total_usd() == 20.0


def test_an_open_attempt_is_running_while_its_heartbeats_come(ledger: Ledger, clock: Clock) -> None:
    context = ledger.attempt(run_id="run", profile="smoke", stage="train", price=PRICE)
    context.__enter__()
    (attempt,) = ledger.attempts()
    assert (attempt.outcome, attempt.state(clock.wall + 20)) == ("interrupted", "running")
    assert attempt.state(clock.wall + 3600) == "interrupted"
    context.__exit__(None, None, None)
    assert ledger.attempts()[0].state(clock.wall) == "completed"


def test_heartbeats_become_sparser_and_stay_bounded() -> None:
    assert [heartbeat_interval(seconds) for seconds in (0.0, 59.9, 60.0, 1e6)] == [5.0, 5.0, 15.0, 15.0]


class FullDisk:
    """Refuses the writes it is told to, after half of the line was taken, as a real disk does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refuses = 0
        self._write = os.write
        self.refused = threading.Event()
        monkeypatch.setattr(ledger_module.os, "write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        if self.refuses and b'"attempt"' in data:
            self.refuses -= 1
            self._write(descriptor, data[: len(data) // 2])
            self.refused.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._write(descriptor, data)


def test_without_room_for_its_start_a_stage_is_not_begun(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    disk.refuses = 1
    begun = False
    with pytest.raises(StorageFull), ledger.attempt(run_id="r", profile="p", stage="s", price=PRICE):
        begun = True
    assert not begun and ledger.path.read_bytes() == b""


def test_a_refused_heartbeat_is_tried_again_and_ends_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ledger_module, "HEARTBEAT_SECONDS", 0.01)
    disk = FullDisk(monkeypatch)
    with ledger.attempt(run_id="r", profile="p", stage="s", price=PRICE):
        disk.refuses = 3
        wait_for(lambda: not disk.refuses and b"heartbeat" in ledger.path.read_bytes())
    (attempt,) = ledger.attempts()
    assert (attempt.outcome, ledger.damaged_lines()) == ("completed", 0)
    assert caplog.text.count("took no heartbeat") == 1


def wait_for(condition: object) -> None:
    for _ in range(1000):
        if condition():  # type: ignore[operator]
            return
        threading.Event().wait(0.005)
    raise AssertionError("did not come")


def test_an_end_is_tried_again_for_a_while(ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    with ledger.attempt(run_id="r", profile="p", stage="s", price=PRICE):
        clock.passes(4.0)
        disk.refuses = len(ledger_module.END_RETRY_SECONDS)
    assert [(a.outcome, a.seconds) for a in ledger.attempts()] == [("completed", 4.0)]


def test_an_end_that_cannot_be_written_is_not_silent(
    ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FullDisk(monkeypatch)
    with (
        pytest.raises(StorageFull) as told,
        ledger.attempt(run_id="r", profile="p", stage="train", price=PRICE),
    ):
        disk.refuses = 100
    assert "stage 'train' (completed" in told.value.__notes__[0]
    disk.refuses = 0
    with (
        pytest.raises(ValueError, match="the stage's own") as own,
        ledger.attempt(run_id="r", profile="p", stage="train", price=PRICE),
    ):
        disk.refuses = 100
        raise ValueError("the stage's own")
    assert "no space left" in own.value.__notes__[0] and "could not note the end" in caplog.text
    disk.refuses = 0
    assert [a.outcome for a in ledger.attempts()] == ["interrupted", "interrupted"]
    assert ledger.damaged_lines() == 0


def test_an_open_attempt_knows_its_seconds(clock: Clock) -> None:
    opened = OpenAttempt()
    clock.passes(7.0)
    assert opened.elapsed_seconds == 7.0


def test_a_ledger_of_before_is_read_as_it_was(tmp_path: Path) -> None:
    """Lines that the pipeline wrote before it recorded machines and the monotonic clock."""
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(OLD_LEDGER)
    first, second = Ledger(path).attempts()
    assert (first.stage, first.outcome, first.provider, first.machine) == ("download", "completed", "own-machine", "")
    assert first.seconds == pytest.approx(1795307850.8898327 - 1795307821.7846441)
    assert first.usd == pytest.approx(first.seconds / 3600 * 0.12)
    assert (second.stage, second.outcome, second.seconds) == ("quality", "interrupted", 0.0)
    assert Ledger(path).damaged_lines() == 0
    record_real(Ledger(path))
    assert [a.outcome for a in Ledger(path).attempts()] == ["completed", "interrupted", "completed"]


def record_real(ledger: Ledger) -> None:
    with ledger.attempt(run_id="run", profile="smoke", stage="after", price=PRICE):
        pass


OLD_LEDGER = (
    b'a4cd5b50b569bcec {"attempt":"7ed7d6ea041d494e9b078417e985e0fc","event":"started","profile":"smoke",'
    b'"provider":"own-machine","run_id":"d69c0758-7cf7-4839-9b98-18d3eaae7c7d","stage":"download",'
    b'"time":1795307821.7846441,"usd_per_hour":0.12}\n'
    b'feb4455e6eb972c8 {"attempt":"7ed7d6ea041d494e9b078417e985e0fc","event":"heartbeat","time":1795307826.7925239}\n'
    b'1429100b5ea20a98 {"attempt":"7ed7d6ea041d494e9b078417e985e0fc","event":"ended","outcome":"completed",'
    b'"time":1795307850.8898327}\n'
    b'c59dcec4638a7646 {"attempt":"afb3b7d9a40c4b809a8ca94716bb509a","event":"started","profile":"smoke",'
    b'"provider":"own-machine","run_id":"d69c0758-7cf7-4839-9b98-18d3eaae7c7d","stage":"quality",'
    b'"time":1795307851.2714782,"usd_per_hour":0.12}\n'
)
