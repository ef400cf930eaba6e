"""A run in a terminal and in a log file: one bar a stage whatever it says of itself, and what it says under it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from infra.stack import runs
from infra.stack.runs import PrefectRuns, Progress
from infra.stack.watching import RunView

LINE = "step 12 of 100, loss 5.123, 12,345 tokens/s, MFU 41.0%, 0:03:20 left (14:05 UTC), $0.0012"


def shown(events: list[Progress], *, terminal: bool) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120, color_system=None)
    RunView(console).show(events)
    return output.getvalue()


def test_a_terminal_shows_one_bar_a_stage_and_its_latest_words() -> None:
    events = [Progress("training", 10.0, "step 11 of 100"), Progress("training", 12.0, LINE)]
    last_frame = shown(events, terminal=True).rpartition("training")[2]
    assert LINE in last_frame
    view = RunView(Console(file=io.StringIO(), force_terminal=True))
    view.show(events)
    assert len(view._bars) == 1


def test_a_log_file_has_a_line_each_tenth_with_the_words_of_that_moment() -> None:
    events = [Progress("training", 12.0 + index / 10, f"step {index}") for index in range(100)]
    assert shown(events, terminal=False).splitlines() == ["training: 12% step 0"]
    events.append(Progress("training", 25.0, LINE))
    assert shown(events, terminal=False).splitlines()[1] == f"training: 25% {LINE}"


def test_the_follower_tells_words_that_change_while_the_percentage_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(["training: step 1", "training: step 2", "training: step 2"])

    def answer(method: str, url: str, body: object) -> list[dict[str, object]]:
        return [{"id": "a", "data": 10.0, "description": next(said), "key": "training-progress"}]

    monkeypatch.setattr(runs, "request_json", answer)
    follower = runs._Follower(PrefectRuns("http://nowhere"), "run")
    told = [list(follower._new_progress()) for _ in range(3)]
    assert told == [[Progress("training", 10.0, "step 1")], [Progress("training", 10.0, "step 2")], []]
