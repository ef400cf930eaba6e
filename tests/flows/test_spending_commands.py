"""`sam2 spend` on a ledger of known attempts: what it adds up, what it finds by name, what it refuses."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flows import spending_report
from flows.spending_commands import add_spending_commands
from flows.spending_report import SpendQuestion, spend_report
from infra.budget.ledger_events import encode_event
from infra.errors import ConfigurationError

HERON, OTTER, OPEN = (f"{digit}b9f1c1e-7f2a-4c55-9a51-3c9e6d1f2ab4" for digit in "012")
FIRST_OF_MARCH = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
HOUR = 3600.0
# run, profile, stage, provider, USD an hour, machine, hours after the first of March began, hours it took, outcome
ATTEMPTS = [
    (HERON, "smoke", "download", "own-machine", 0.12, "desk", 10.0, 1.0, "completed"),
    (HERON, "smoke", "train", "lambda", 10.0, "node-1", 11.0, 2.0, "failed"),
    (HERON, "smoke", "train", "lambda", 10.0, "node-2", 22.0, 4.0, "completed"),  # two hours on each side of midnight
    (OTTER, "large", "train", "aws", 32.0, "node-3", 80.0, 0.5, "suspended"),
    (OPEN, "smoke", "train", "lambda", 10.0, "node-1", 120.0, 1.0, None),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    lines = b""
    for index, (run, profile, stage, provider, price, machine, begin, hours, outcome) in enumerate(ATTEMPTS):
        identity = {
            "attempt": str(index), "run_id": run, "profile": profile, "stage": stage, "provider": provider,
            "usd_per_hour": price, "machine": machine, "currency": "USD",
        }  # fmt: skip
        started = FIRST_OF_MARCH + begin * HOUR
        ended = {"time": started + hours * HOUR, "elapsed": hours * HOUR}
        lines += encode_event({"event": "started", "time": started, **identity})
        if outcome is None:
            lines += encode_event({"event": "heartbeat", "attempt": str(index), **ended})
        else:
            lines += encode_event({"event": "ended", "outcome": outcome, "started": started, **ended, **identity})
    (home / "ledger.jsonl").write_bytes(lines)
    for run, name, profile, started, ceiling in (
        (HERON, "wise-heron", "smoke", "2026-03-01T09:59:00Z", 100.0),
        (OTTER, "late-otter", "large", "2026-03-04T08:00:00Z", None),
    ):
        directory = home / "runs" / run
        directory.mkdir(parents=True)
        summary = {"flow_run_id": run, "run_name": name, "profile": profile, "started_at": started,
                   "spend": {"ceiling_usd": ceiling}}  # fmt: skip
        (directory / "summary.json").write_text(json.dumps(summary))
    (home / "runs" / "torn").mkdir()
    (home / "runs" / "torn" / "summary.json").write_text('{"flow_run_id": "torn", "run_na')
    return home


@pytest.fixture
def command(home: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setenv("SAM2_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "140")
    app = typer.Typer()
    app.callback()(lambda: None)
    add_spending_commands(app)
    return app


def spend(app: typer.Typer, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["spend", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def amounts(home: Path, question: SpendQuestion) -> dict[str, float]:
    return {row.key: round(row.usd, 6) for row in spend_report(home, question).rows}


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("stage", {"train": 86.0, "download": 0.12}),
        ("profile", {"smoke": 70.12, "large": 16.0}),
        ("provider", {"lambda": 70.0, "aws": 16.0, "own-machine": 0.12}),
        ("machine", {"node-2": 40.0, "node-1": 30.0, "node-3": 16.0, "desk": 0.12}),
        ("outcome", {"completed": 40.12, "failed": 20.0, "suspended": 16.0, "interrupted": 10.0}),
        ("day", {"2026-03-01": 40.12, "2026-03-02": 20.0, "2026-03-04": 16.0, "2026-03-06": 10.0}),
        ("run", {HERON: 60.12, OTTER: 16.0, OPEN: 10.0}),
        ("run_id", {HERON: 60.12, OTTER: 16.0, OPEN: 10.0}),
    ],
)
def test_every_grouping_adds_up_the_same_attempts(home: Path, by: str, expected: dict[str, float]) -> None:
    found = amounts(home, SpendQuestion(by=by))
    assert found == expected and list(found) == list(expected)
    report = spend_report(home, SpendQuestion(by=by))
    assert (report.total.attempts, round(report.total.usd, 6), report.total.wasted_usd) == (5, 86.12, 30.0)


@pytest.mark.parametrize("name", ["wise-heron", HERON, HERON[:8], "0"])
def test_a_run_is_found_by_name_id_and_the_beginning_of_it(home: Path, name: str) -> None:
    assert amounts(home, SpendQuestion(run=name)) == {"train": 60.0, "download": 0.12}


def test_a_run_without_a_summary_is_found_too(home: Path) -> None:
    assert amounts(home, SpendQuestion(run="latest")) == {"train": 10.0}
    assert amounts(home, SpendQuestion(run=OPEN[:4])) == {"train": 10.0}


def test_days_cut_attempts_at_midnight(home: Path) -> None:
    second = SpendQuestion(since=date(2026, 3, 2), until=date(2026, 3, 2))
    assert amounts(home, second) == {"train": 20.0}
    assert spend_report(home, second).total.attempts == 1
    assert amounts(home, SpendQuestion(by="day", profile="large")) == {"2026-03-04": 16.0}


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (SpendQuestion(by="colour"), "choose one of: run, run_id, stage"),
        (SpendQuestion(run="nobody"), r"there is no run 'nobody'.*wise-heron \(0b9f1c1e\)"),
        (SpendQuestion(profile="none"), "profiles that were: large, smoke"),
        (SpendQuestion(since=date(2026, 3, 2), until=date(2026, 3, 1)), "swap them"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_what_can(home: Path, question: SpendQuestion, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        spend_report(home, question)


def test_a_name_of_two_runs_is_not_guessed(home: Path, tmp_path: Path) -> None:
    for run in (HERON, OTTER):
        directory = tmp_path / "runs" / run
        directory.mkdir(parents=True)
        summary = json.loads((home / "runs" / run / "summary.json").read_text())
        (directory / "summary.json").write_text(json.dumps({**summary, "run_name": "twin"}))
    with pytest.raises(ConfigurationError, match="is 2 runs"):
        spend_report(tmp_path, SpendQuestion(run="twin"))


def test_the_table_has_shares_waste_total_and_the_ceiling(command: typer.Typer) -> None:
    text = spend(command, "--profile", "smoke", "--by", "run")
    assert "wise-heron (0b9f1c1e)" in text and OPEN in text
    assert "85.7%" in text and "60.12" in text and "20.00" in text
    one_line = " ".join(text.split())  # narrow terminals wrap it
    assert "profile 'smoke'" in one_line and "70.12 of its ceiling of 100.00 USD (70%)" in one_line
    one_run = " ".join(spend(command, "--run", "wise-heron").split())
    assert "70.12 of its ceiling of 100.00 USD (70%)" in one_run, "the ceiling is the profile's, not the run's"


@pytest.mark.parametrize("columns", ["40", "80", "100"])
def test_names_are_whole_in_a_narrow_terminal(
    command: typer.Typer, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for by, names in (("stage", ["download", "train"]), ("run_id", [HERON, OTTER, OPEN]), ("run", ["late-otter (1b9"])):
        text = spend(command, "--by", by)
        assert all(any(line.lstrip().startswith(name) for line in text.splitlines()) for name in names)
        assert "…" not in text


def test_forms_for_programs(command: typer.Typer) -> None:
    content = json.loads(spend(command, "--by", "run", "--json"))
    assert content["total"] == {"attempts": 5, "seconds": 8.5 * HOUR, "usd": pytest.approx(86.12), "wasted_usd": 30.0}
    assert content["rows"][0]["run"] == HERON and content["rows"][0]["name"] == "wise-heron (0b9f1c1e)"
    rows = list(csv.DictReader(io.StringIO(spend(command, "--by", "stage", "--csv"))))
    assert [(row["stage"], float(row["usd"])) for row in rows] == [("train", 86.0), ("download", pytest.approx(0.12))]
    with pytest.raises(ConfigurationError, match="choose one"):
        spend(command, "--json", "--csv")


@pytest.mark.parametrize("by", ["stage", "day"])
def test_a_plot_is_written_the_same_twice(command: typer.Typer, tmp_path: Path, by: str) -> None:
    for name in ("one.png", "two.png"):
        assert name in spend(command, "--by", by, "--profile", "smoke", "--plot", str(tmp_path / name))
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_damage_is_told(home: Path, tmp_path: Path, command: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM2_HOME", str(tmp_path))
    lines = (home / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "ledger.jsonl").write_bytes(b"".join(lines[:8]) + b"X" + lines[8] + lines[9])
    text = spend(command)
    assert "1 lines of the ledger fail their checksum" in text and "1 attempts have lost their price" in text


def test_an_empty_home_has_spent_nothing(tmp_path: Path, command: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM2_HOME", str(tmp_path))
    assert "Nothing has been spent yet." in spend(command)
    assert json.loads(spend(command, "--json"))["total"]["usd"] == 0
    plot = tmp_path / "empty.png"
    spend(command, "--plot", str(plot))
    assert plot.exists()


def test_before_its_first_run_has_ended_a_profile_s_ceiling_is_its_file_s(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ledger.jsonl").write_bytes((home / "ledger.jsonl").read_bytes())
    (tmp_path / "plain.yaml").write_text("budget: {ceiling_usd: 70}\n")
    (tmp_path / "smoke.yaml").write_text("extends: plain\nbudget: {price: {usd_per_hour: 2}}\n")
    monkeypatch.setattr(spending_report, "PROFILE_DIRECTORIES", (tmp_path / "none", tmp_path))
    assert spend_report(tmp_path, SpendQuestion(profile="smoke")).ceiling_usd == 70.0
    assert spend_report(tmp_path, SpendQuestion(profile="large")).ceiling_usd is None


def test_the_ceiling_is_that_of_the_profile_s_last_run(tmp_path: Path, home: Path) -> None:
    (tmp_path / "ledger.jsonl").write_bytes((home / "ledger.jsonl").read_bytes())
    for day, ceiling in ((3, 300.0), (1, 100.0), (2, 200.0)):
        directory = tmp_path / "runs" / f"run-{day}"
        directory.mkdir(parents=True)
        summary = {"flow_run_id": directory.name, "run_name": directory.name, "profile": "smoke",
                   "started_at": f"2026-03-0{day}T09:59:00Z", "spend": {"ceiling_usd": ceiling}}  # fmt: skip
        (directory / "summary.json").write_text(json.dumps(summary))
    assert spend_report(tmp_path, SpendQuestion(profile="smoke")).ceiling_usd == 300.0
