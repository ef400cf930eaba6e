"""What has been spent, gathered from the ledger and the runs' summaries; no server is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import orjson
import yaml

from infra.budget import SPEND_KEYS, Attempt, Ledger, SpendRow, spend_rows
from infra.errors import ConfigurationError

#: What the command line calls it -> what the ledger calls it.
GROUPINGS = {"run": "run_id"} | {key: key for key in SPEND_KEYS}
PROFILE_DIRECTORIES = tuple(Path(__file__).parent / name for name in ("profiles", "finetune_profiles"))
_IN_ORDER_OF_TIME = ("run", "run_id", "day")
_SHOWN_OF_ID = 8
_LATEST = "latest"


@dataclass(frozen=True)
class KnownRun:
    """What a run's summary says of it; written when the run ends."""

    run_id: str
    name: str
    profile: str
    started_at: str
    ceiling_usd: float | None


@dataclass(frozen=True)
class SpendQuestion:
    """What is asked: a grouping and what to keep. Days are UTC and included; run is a name, an id or its beginning."""

    by: str = "stage"
    run: str | None = None
    profile: str | None = None
    since: date | None = None
    until: date | None = None


@dataclass(frozen=True)
class SpendReport:
    """Rows and their total, with what must be said beside them.

    labels: what to show for a row's key. profile_usd is all that the profile has spent, whatever was kept here.
    """

    question: SpendQuestion
    rows: list[SpendRow]
    labels: dict[str, str]
    total: SpendRow
    profile: str | None
    profile_usd: float
    ceiling_usd: float | None
    damaged_lines: int
    unpriced_attempts: int
    currency: str = "USD"

    @property
    def is_part_of_profile(self) -> bool:
        """Whether the rows leave out something that the profile has spent."""
        return self.question.run is not None or self.question.since is not None or self.question.until is not None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        question = self.question
        return {
            "by": question.by,
            "run": question.run,
            "profile": self.profile,
            "since": question.since and question.since.isoformat(),
            "until": question.until and question.until.isoformat(),
            "currency": self.currency,
            "rows": [self.row_as_json(row) for row in self.rows],
            "total": _figures(self.total),
            "profile_usd": self.profile_usd if self.profile else None,
            "ceiling_usd": self.ceiling_usd,
            "damaged_lines": self.damaged_lines,
            "unpriced_attempts": self.unpriced_attempts,
        }

    def row_as_json(self, row: SpendRow) -> dict[str, Any]:
        """One row: its key, the name people know it by, its figures."""
        return {self.question.by: row.key, "name": self.labels[row.key], **_figures(row)}


def spend_report(home: Path, question: SpendQuestion, now: float | None = None) -> SpendReport:
    """Answer a question from <home>/ledger.jsonl and <home>/runs/*/summary.json; now is in Unix seconds.

    Raises ConfigurationError for an unknown grouping, run or profile, and for days in the wrong order.
    """
    if question.by not in GROUPINGS:
        raise ConfigurationError(f"cannot add up by '{question.by}'.", f"choose one of: {', '.join(GROUPINGS)}.")
    if question.since and question.until and question.since > question.until:
        raise ConfigurationError(f"--since {question.since} is after --until {question.until}.", "swap them.")
    ledger = Ledger(home / "ledger.jsonl")
    attempts = ledger.attempts()
    runs = known_runs(home)
    kept = _kept(attempts, question, runs)
    rows = spend_rows(kept, GROUPINGS[question.by], since=question.since, until=question.until, now=now)
    if question.by not in _IN_ORDER_OF_TIME:
        rows.sort(key=lambda row: -row.usd)
    if question.by == "day":
        rows.sort(key=lambda row: row.key)
    # By day an attempt counts in each of its days, so the total has its own count.
    totals = spend_rows(kept, "profile", since=question.since, until=question.until, now=now)
    profiles = {attempt.profile for attempt in kept}
    profile = question.profile or (profiles.pop() if len(profiles) == 1 else None)
    return SpendReport(
        question=question,
        rows=rows,
        labels={row.key: _label(row.key, question.by, runs) for row in rows},
        total=_sum(totals),
        profile=profile,
        profile_usd=sum(attempt.usd for attempt in attempts if attempt.profile == profile),
        ceiling_usd=None if profile is None else profile_ceiling(profile, runs),
        damaged_lines=ledger.damaged_lines(),
        unpriced_attempts=ledger.unpriced_attempts(),
    )


def known_runs(home: Path) -> list[KnownRun]:
    """The runs that have ended, oldest first; a summary that cannot be read is left out."""
    found = []
    for path in (home / "runs").glob("*/summary.json"):
        try:
            summary = orjson.loads(path.read_bytes())
            run = KnownRun(
                run_id=summary["flow_run_id"],
                name=summary["run_name"],
                profile=summary["profile"],
                started_at=summary["started_at"],
                ceiling_usd=summary["spend"]["ceiling_usd"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.append(run)
    return sorted(found, key=lambda run: run.started_at)


def find_run(name: str, attempts: Sequence[Attempt], runs: Sequence[KnownRun]) -> str:
    """The id of a run by its id, the beginning of it, its name, or `latest`. Raises ConfigurationError."""
    ids = list(dict.fromkeys([*(run.run_id for run in runs), *(attempt.run_id for attempt in attempts)]))
    if name == _LATEST and attempts:
        return attempts[-1].run_id
    if name in ids:
        return name
    named = [run.run_id for run in runs if run.name == name]
    begun = [run_id for run_id in ids if name and run_id.startswith(name)]
    for candidates in (named, begun):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise ConfigurationError(
                f"'{name}' is {len(candidates)} runs.", f"give one of their ids: {', '.join(candidates)}."
            )
    labels = [_label(run_id, "run", runs) for run_id in ids[-5:]]
    known = ", ".join(labels) or "none: nothing was run in this SAM2_HOME"
    raise ConfigurationError(f"there is no run '{name}'.", f"the latest are: {known}.")


def profile_ceiling(profile: str, runs: Sequence[KnownRun]) -> float | None:
    """The ceiling that was in force in the profile's last run; before its first run ended, the one in its file."""
    last = [run for run in runs if run.profile == profile]
    return last[-1].ceiling_usd if last else _ceiling_in_file(profile)


def _ceiling_in_file(profile: str) -> float | None:
    """Read without flows.configuration, whose import of the model package takes seconds.

    None for a profile without a ceiling and for one whose file is gone.
    """
    places = (directory / f"{profile}.yaml" for directory in PROFILE_DIRECTORIES)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return None
    content = yaml.safe_load(path.read_text()) or {}
    budget = content.get("budget") or {}
    if "ceiling_usd" in budget or "extends" not in content:
        ceiling = budget.get("ceiling_usd")
        return None if ceiling is None else float(ceiling)
    return _ceiling_in_file(str(content["extends"]))


def _kept(attempts: Sequence[Attempt], question: SpendQuestion, runs: Sequence[KnownRun]) -> list[Attempt]:
    run_id = None if question.run is None else find_run(question.run, attempts, runs)
    profiles = sorted({attempt.profile for attempt in attempts})
    if question.profile is not None and question.profile not in profiles:
        known = ", ".join(profiles) or "none"
        raise ConfigurationError(f"nothing was spent on profile '{question.profile}'.", f"profiles that were: {known}.")
    return [
        attempt
        for attempt in attempts
        if (run_id is None or attempt.run_id == run_id)
        and (question.profile is None or attempt.profile == question.profile)
    ]


def _label(key: str, by: str, runs: Sequence[KnownRun]) -> str:
    if by != "run":
        return key or "not recorded"
    name = next((run.name for run in runs if run.run_id == key), None)
    return f"{name} ({key[:_SHOWN_OF_ID]})" if name else key


def _sum(rows: Sequence[SpendRow]) -> SpendRow:
    return SpendRow(
        key="total",
        attempts=sum(row.attempts for row in rows),
        seconds=sum(row.seconds for row in rows),
        usd=sum(row.usd for row in rows),
        wasted_usd=sum(row.wasted_usd for row in rows),
    )


def _figures(row: SpendRow) -> dict[str, float]:
    return {"attempts": row.attempts, "seconds": row.seconds, "usd": row.usd, "wasted_usd": row.wasted_usd}
