"""Many writers at once, killed writers, forking writers: no line is lost, mixed or waited for in vain."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from infra.budget import Attempt, ComputePrice, Ledger
from infra.budget import ledger as ledger_module
from infra.budget.ledger_events import encode_event

PRICE = ComputePrice(usd_per_hour=3600.0)
PROCESSES, THREADS, ATTEMPTS = 4, 3, 12
context = multiprocessing.get_context("fork")


def write_many(path: Path, writer: str) -> None:
    for index in range(ATTEMPTS):
        with Ledger(path).attempt(run_id=writer, profile="p", stage=str(index), price=PRICE):
            pass


def write_from_threads(path: Path, process: int) -> None:
    threads = [threading.Thread(target=write_many, args=(path, f"{process}.{thread}")) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def is_prefix(attempts: list[Attempt]) -> bool:
    """Whether each writer's attempts are its first ones, in order, all but its last one ended."""
    by_writer: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        by_writer.setdefault(attempt.run_id, []).append(attempt)
    return all(
        [a.stage for a in mine] == [str(index) for index in range(len(mine))]
        and all(a.outcome == "completed" for a in mine[:-1])
        for mine in by_writer.values()
    )


def test_writers_at_once_lose_and_mix_nothing_and_readers_see_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    children = [context.Process(target=write_from_threads, args=(path, process)) for process in range(PROCESSES)]
    for child in children:
        child.start()
    seen = [0]
    while any(child.is_alive() for child in children):
        found = Ledger(path).attempts()
        assert is_prefix(found) and len(found) >= seen[-1]
        assert Ledger(path).damaged_lines() == 0
        seen.append(len(found))
        time.sleep(0.002)
    for child in children:
        child.join()
    attempts = Ledger(path).attempts()
    assert len(attempts) == PROCESSES * THREADS * ATTEMPTS
    assert Counter(a.outcome for a in attempts) == {"completed": len(attempts)}
    assert len(set(seen)) > 3, "the reader never saw the middle"


@contextmanager
def half_written_line(path: Path) -> Iterator[None]:
    """Another process in the middle of a line, for as long as the block lasts and a moment more."""
    line = encode_event({"event": "heartbeat", "attempt": "another", "time": 1.0, "elapsed": 1.0})
    with path.open("ab", buffering=0) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(line[:30])
        yield
        time.sleep(0.1)
        stream.write(line[30:])


def test_a_line_in_the_middle_of_its_writing_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with ThreadPoolExecutor() as threads:
        with half_written_line(path):
            damaged = threads.submit(Ledger(path).damaged_lines)
        assert damaged.result(30) == 0
        with half_written_line(path):
            writing = threads.submit(write_many, path, "writer")
        writing.result(30)
    assert Ledger(path).damaged_lines() == 0
    assert len(Ledger(path).attempts()) == ATTEMPTS


def test_a_ledger_that_is_replaced_while_a_writer_waits_gets_the_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with ThreadPoolExecutor() as threads:
        with path.open("ab") as old:
            fcntl.flock(old, fcntl.LOCK_EX)
            writing = threads.submit(write_many, path, "writer")
            time.sleep(0.1)
            (tmp_path / "restored.jsonl").touch()
            (tmp_path / "restored.jsonl").replace(path)
        writing.result(30)
    assert [a.outcome for a in Ledger(path).attempts()] == ["completed"] * ATTEMPTS
    assert path.read_bytes().count(b"\n") == 2 * ATTEMPTS, "no line went to the file that is gone"


def hold_attempt(path: Path) -> None:
    ledger_module.HEARTBEAT_SECONDS = 0.02
    with Ledger(path).attempt(run_id="run", profile="smoke", stage="train", price=PRICE):
        time.sleep(60)


def test_a_killed_attempt_is_charged_to_its_last_heartbeat(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.touch()
    child = context.Process(target=hold_attempt, args=(path,))
    child.start()
    while path.read_bytes().count(b"heartbeat") < 10:
        time.sleep(0.01)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    (attempt,) = Ledger(path).attempts()
    assert attempt.outcome == "interrupted"
    beats = [line for line in path.read_bytes().splitlines() if b"heartbeat" in line]
    assert f'"elapsed":{attempt.seconds}'.encode() in beats[-1]
    assert Ledger(path).total_usd() == pytest.approx(attempt.seconds) and attempt.seconds >= 0.2


def write_until_killed(path: Path, told: Connection, run_id: str) -> None:
    for index in range(1_000_000):
        with Ledger(path).attempt(run_id=run_id, profile="p", stage=str(index), price=PRICE):
            pass
        told.send(index)


def test_kill_9_again_and_again_loses_no_attempt_that_was_closed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.touch()
    chance = random.Random(0)
    for round_ in range(25):
        receiving, sending = context.Pipe(duplex=False)
        child = context.Process(target=write_until_killed, args=(path, sending, str(round_)))
        child.start()
        receiving.recv()
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        sending.close()
        closed = 0
        while receiving.poll():
            try:
                closed = receiving.recv()
            except (EOFError, OSError):
                break
        mine = [a for a in Ledger(path).attempts() if a.run_id == str(round_)]
        assert [a.stage for a in mine] == [str(index) for index in range(len(mine))]
        assert [a.outcome for a in mine[: closed + 1]] == ["completed"] * (closed + 1)
    # What a kill tore is counted, one line a kill at the most, and nobody after it was held up.
    assert Ledger(path).damaged_lines() <= 25
    assert len({a.run_id for a in Ledger(path).attempts()}) == 25


def test_a_child_forked_in_the_middle_of_a_write_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It inherits the locked file, and with it the lock."""
    children = []
    sync = os.fsync

    def fork_and_sync(descriptor: int) -> None:
        if not children:
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            children.append(child)
        sync(descriptor)

    monkeypatch.setattr(ledger_module.os, "fsync", fork_and_sync)
    writer = threading.Thread(target=write_many, args=(tmp_path / "ledger.jsonl", "parent"), daemon=True)
    writer.start()
    writer.join(30)
    held_up = writer.is_alive()
    os.kill(children[0], signal.SIGKILL)
    os.waitpid(children[0], 0)
    assert not held_up
    assert len(Ledger(tmp_path / "ledger.jsonl").attempts()) == ATTEMPTS
