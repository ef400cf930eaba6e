"""The terminal's summary: short, aligned, and without the power to move the cursor."""

from __future__ import annotations

from tasks.reporting import RunSummary, text_summary
from tasks.reporting.terminal import MAXIMUM_LINES


def test_tells_the_run_in_a_screen(summary: RunSummary) -> None:
    lines = text_summary(summary).splitlines()
    assert len(lines) <= MAXIMUM_LINES and max(map(len, lines)) <= 96
    assert lines[:2] == ["wise-heron · profile smoke · completed", "The model passed all 3 gates"]
    money = [line for line in lines if line.startswith(("Download", "Foundation", "Registration"))]
    assert len({len(line) for line in money}) == 1


def test_many_stages_and_samples_still_fit(summary: RunSummary) -> None:
    many = summary.model_copy(update={"stages": summary.stages * 5})
    assert len(text_summary(many).splitlines()) <= MAXIMUM_LINES


def test_control_characters_do_not_reach_the_terminal(summary: RunSummary) -> None:
    failed = summary.stages[0].model_copy(update={"manifest": None, "error": "\x1b[2Jgone\r\nforged line"})
    text = text_summary(summary.model_copy(update={"stages": [failed], "status": "failed"}))
    assert "\x1b" not in text and "\nforged" not in text
