"""A run that would cost more than its ceiling waits, with a checkpoint, for a typed answer, and follows it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from playwright.sync_api import Page, expect, sync_playwright

from infra.artifacts import ArtifactStore
from infra.budget import Attempt, Ledger
from infra.stack.runs import FlowRun, run_page
from infra.stack.web import request_json
from model.interface import open_model
from tasks.forecasting import Evidence, measured_rates
from tasks.forecasting.evidence import last_seconds
from tasks.guard import Choice, DecisionLog
from tasks.guard.decisions import DECISION_FILE

from .conftest import RunningStack, read_summary
from .test_pages import CHROMIUM, FLAGS, PATIENCE_MILLISECONDS, keep_picture

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

#: A tenth of a cent a second.
USD_PER_HOUR = 3.6
#: What follows the training, by what it took the last time.
LATER = ("evaluation", "quantization", "registration")
MODEL = "sam2-guarded"
Finished = tuple[Path, str, FlowRun]


@pytest.fixture
def page() -> Iterator[Page | None]:
    if CHROMIUM is None:
        yield None
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1440, "height": 1000})
        opened.set_default_timeout(PATIENCE_MILLISECONDS)
        yield opened
        browser.close()


@dataclass(frozen=True)
class Held:
    """A run that waits, with what it was given."""

    run: FlowRun
    root: Path
    ceiling_usd: float


def ledger_of(stack: RunningStack) -> Ledger:
    return Ledger(stack.settings.home / "ledger.jsonl")


def attempts_of(stack: RunningStack, run: FlowRun) -> list[Attempt]:
    return [attempt for attempt in ledger_of(stack).attempts() if attempt.run_id == run.id]


def wait_for_state(stack: RunningStack, run: FlowRun, *states: str, seconds: float = 300) -> FlowRun:
    deadline = time.monotonic() + seconds
    while (found := stack.runs.read(run.id)).state_type not in states:
        assert time.monotonic() < deadline, f"{found.state_name}: {found.message}"
        assert not found.is_over, f"{found.state_name}: {found.message}"
        time.sleep(0.5)
    return found


def hold(stack: RunningStack, finished: Finished, tmp_path: Path, *, updates: int, room_seconds: float,
         settings: dict[str, Any]) -> Held:  # fmt: skip
    """A run on the finished run's data, with money for what follows the training, for starting it, and `room_seconds`.

    Its training is believed to be far too fast (a stated peak, at settings nobody has trained with), so that only
    the training itself can tell that the money will not do.
    """
    root = tmp_path / "artifacts"
    shutil.copytree(finished[0], root)
    ledger = ledger_of(stack)
    took = last_seconds(ledger.attempts(), "miniature")
    spent = ledger.total_usd(profile="miniature")
    manifests = ArtifactStore.open(str(root), tmp_path / "cache").manifests()
    starting = 2 * Evidence(measured_rates(manifests)).other_seconds  # each of the two stages
    ceiling = spent + (sum(took[name] for name in LATER) + starting + room_seconds) * USD_PER_HOUR / 3600
    stage = {"batch_tokens": 256, "learning_rate": 3e-3, "final_learning_rate": 1e-4}
    overrides = {
        "artifact_root": str(root),
        "budget": {"ceiling_usd": ceiling, "price": {"usd_per_hour": USD_PER_HOUR}},
        "training": {"peak_teraflops": 1000.0, **settings},
        "registration": {"model_name": MODEL},  # the finished run's versions are other tests'
        "curriculum": [
            {"name": "short", "context_tokens": 64, "tokens": 256 * updates, **stage},
            {"name": "long", "context_tokens": 128, "tokens": 256 * 40, **stage},
        ],
    }
    run = stack.runs.submit({"profile": "miniature", "overrides": overrides})
    run = wait_for_state(stack, run, "PAUSED")
    return Held(run, root, ceiling)


def parent_of(stack: RunningStack, run: FlowRun) -> Any:
    client = MlflowClient(tracking_uri=stack.state.mlflow_url)
    experiment = client.get_experiment_by_name("sam2-miniature")
    (parent,) = client.search_runs([experiment.experiment_id], f"tags.`prefect.flow_run_id` = '{run.id}'")
    return parent


def trained(root: Path, finished: Finished) -> dict[str, dict[str, Any]]:
    """Manifests of the stages that this run trained, by stage name."""
    old = {path.parent.name for path in finished[0].glob("checkpoint/*/manifest.json")}
    manifests = [json.loads(path.read_text()) for path in root.glob("checkpoint/*/manifest.json")]
    return {one["config"]["name"]: one for one in manifests if one["fingerprint"] not in old}


def updates_made(root: Path, manifest: dict[str, Any]) -> list[int]:
    lines = (root / "checkpoint" / manifest["fingerprint"] / "history.jsonl").read_text().splitlines()
    return [record["step"] for record in map(json.loads, lines) if record["step"]]


def answer_in_prefect(page: Page, stack: RunningStack, run: FlowRun) -> None:
    """Choose `stop` in the form on the run's page; without a choice the form is refused."""
    page.goto(run_page(stack.state.prefect_url, run.id))
    page.get_by_role("button", name="Resume").first.click()
    form = page.get_by_role("dialog")
    expect(form.get_by_text("Ceiling: ").first).to_be_visible()
    keep_picture(page, "budget-question")
    form.get_by_role("button", name="Submit").click()
    expect(form.get_by_text("'choice' is a required property")).to_be_visible()
    form.locator(".p-select-button__control").first.click()
    for _ in Choice:  # stop is the last of them
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(form.locator(".p-select-button__control").first).to_contain_text("stop")
    form.get_by_role("button", name="Submit").click()
    expect(form).to_be_hidden()


def test_approve_goes_on_where_it_was(stack: RunningStack, finished_run: Finished, tmp_path: Path) -> None:
    held = hold(stack, finished_run, tmp_path, updates=200, room_seconds=10, settings={"threads_per_rank": 1})
    question = DecisionLog(stack.settings.runs_directory / held.run.id / DECISION_FILE).open_question
    assert question is not None
    assert question.stage == "training-1-short"
    assert question.forecast.expected_usd > held.ceiling_usd > question.forecast.spent_usd, "held before the overspend"
    assert question.done_steps is not None
    assert 10 <= question.done_steps < 200
    assert list(held.root.glob(f"checkpoint/*/.scratch/checkpoints/step-{question.done_steps:08d}/checkpoint.json"))
    assert [attempt.outcome for attempt in attempts_of(stack, held.run)][-1] == "suspended"
    assert read_summary(stack, held.run)["status"] == "waiting"
    parent = parent_of(stack, held.run)
    assert parent.data.metrics["forecast/usd"] > parent.data.metrics["forecast/ceiling_usd"]
    shown = stack.command("sam2", "answer", held.run.name).stdout
    assert "after update" in shown and "approve" in shown

    refused = stack.command("sam2", "answer", held.run.name, "approve")
    assert (refused.returncode, "approve needs new_ceiling_usd" in refused.stderr) == (1, True)
    answered = stack.command("sam2", "answer", held.run.name, "approve", "--ceiling", f"{held.ceiling_usd + 5:.4f}")
    assert answered.returncode == 0, answered.stderr
    assert wait_for_state(stack, held.run, "COMPLETED").state_name == "Completed"
    stages = trained(held.root, finished_run)
    assert {name: updates_made(held.root, one) for name, one in stages.items()} == {
        "short": list(range(1, 201)),
        "long": list(range(1, 41)),
    }, "every update once, those before the question among them"
    assert stages["short"]["statistics"]["incidents"] == []
    summary = read_summary(stack, held.run)
    assert summary["decisions"][0]["answer"].startswith("approve (a person)")
    assert {row["stage"] for row in summary["plan"]["rows"]} >= {"training-1-short", "evaluation"}
    assert parent_of(stack, held.run).data.metrics["plan/actual_over_planned"] > 0


def test_shrink_makes_the_rest_fit(stack: RunningStack, finished_run: Finished, tmp_path: Path) -> None:
    held = hold(
        stack, finished_run, tmp_path, updates=500, room_seconds=30, settings={"gradient_checkpointing": True}
    )  # fmt: skip
    details = request_json("GET", f"{stack.runs.api_url}/flow_runs/{held.run.id}")["state"]["state_details"]
    assert details["run_input_keyset"], "Prefect's page shows a form"
    run = held.run
    for _ in range(4):  # where other work slows the machine down after the answer, it is asked again
        stack.runs.answer(run, {"choice": "shrink"})
        run = wait_for_state(stack, run, "COMPLETED", "PAUSED")
        if not run.is_waiting:
            break
    assert run.state_name == "Completed"
    stages = trained(held.root, finished_run)
    done = DecisionLog(stack.settings.runs_directory / held.run.id / DECISION_FILE).decisions[0][1].done_steps["short"]
    short, long = (updates_made(held.root, stages[name]) for name in ("short", "long"))
    assert short == list(range(1, len(short) + 1))
    assert done < len(short) < 500
    assert 10 <= len(long) < 40, "the long rows are kept, fewer of them"
    spent = ledger_of(stack).total_usd(profile="miniature")
    assert spent <= held.ceiling_usd, "the shortened run stays below the ceiling it was given"
    client = MlflowClient(tracking_uri=stack.state.mlflow_url)
    assert client.get_model_version_by_alias(MODEL, "candidate").tags["sam2.shortened"] == "true"


def test_stop_leaves_a_partial_model_that_works(
    stack: RunningStack, finished_run: Finished, page: Page | None, tmp_path: Path
) -> None:
    held = hold(stack, finished_run, tmp_path, updates=200, room_seconds=10, settings={"optimizer": "muon"})
    if page is not None:
        answer_in_prefect(page, stack, held.run)
    else:  # no browser on this machine: the terminal's answer
        assert stack.command("sam2", "answer", held.run.name, "stop").returncode == 0
    ended = wait_for_state(stack, held.run, "COMPLETED")
    assert (ended.state_name, "partial model" in ended.message) == ("Stopped", True)
    decision = DecisionLog(stack.settings.runs_directory / held.run.id / DECISION_FILE).decisions[0][1]
    stages = trained(held.root, finished_run)
    assert list(stages) == ["short"]
    assert updates_made(held.root, stages["short"]) == list(range(1, decision.done_steps["short"] + 1))
    client = MlflowClient(tracking_uri=stack.state.mlflow_url)
    version = client.get_model_version_by_alias(MODEL, "partial")
    assert version.tags["sam2.partial"] == "true"
    summary = read_summary(stack, held.run)
    assert summary["status"] == "stopped"
    assert summary["registered"]["version"] == version.version
    newest = max(held.root.glob("registration/*"), key=lambda path: path.stat().st_mtime)
    text = open_model(newest / "model").generate(["The function"])[0].text
    assert isinstance(text, str)
    assert text
