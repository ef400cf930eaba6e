"""What a person sees: the run in Prefect, the comparison in MLflow, the parameters form, in a real browser.

Set SAM2_SCREENSHOTS to a folder to keep the pictures (docs/screenshots holds the last ones).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from playwright.sync_api import Browser, Page, expect, sync_playwright

from infra.stack.runs import FlowRun, run_page
from infra.stack.web import request_json

from .conftest import RunningStack

pytestmark = [pytest.mark.end_to_end, pytest.mark.browser, pytest.mark.timeout(600)]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MILLISECONDS = 90_000
#: Pipeline runs that came to their end; those that were stopped for their cost have no evaluation.
WHOLE_RUNS = "tags.`sam2.stage` = 'pipeline' and tags.`sam2.status` = 'completed'"
Finished = tuple[Path, str, FlowRun]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine; `make chromium` installs Debian's")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1440, "height": 1000})
    opened.set_default_timeout(PATIENCE_MILLISECONDS)
    yield opened
    opened.close()


def keep_picture(page: Page, name: str) -> None:
    folder = os.environ.get("SAM2_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(1500)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def test_prefects_run_page_shows_the_stages(stack: RunningStack, finished_run: Finished, page: Page) -> None:
    page.goto(run_page(stack.state.prefect_url, finished_run[2].id))
    page.get_by_text("Task Runs", exact=True).first.click()
    for stage in ("download", "training-1-short", "registration"):
        expect(page.get_by_text(stage, exact=True).first).to_be_visible(timeout=PATIENCE_MILLISECONDS)
    keep_picture(page, "prefect-run")
    page.get_by_text("Artifacts", exact=True).last.click()
    expect(page.get_by_text("summary", exact=False).first).to_be_visible(timeout=PATIENCE_MILLISECONDS)
    keep_picture(page, "prefect-artifacts")


def test_the_parameters_form_is_typed_and_documented(stack: RunningStack, page: Page) -> None:
    deployment = request_json("GET", f"{stack.runs.api_url}/deployments/name/sam2-full-pipeline/local")
    page.goto(f"{stack.state.prefect_url}/deployments/deployment/{deployment['id']}/run")
    expect(page.get_by_text("What to run: a file of flows/profiles/, by name.").first).to_be_visible(
        timeout=PATIENCE_MILLISECONDS
    )
    expect(page.get_by_text("Only show what is finished", exact=False).first).to_be_visible()
    keep_picture(page, "prefect-form")


def test_mlflow_compares_runs_with_their_costs(stack: RunningStack, finished_run: Finished, page: Page) -> None:
    client = MlflowClient(tracking_uri=stack.state.mlflow_url)
    experiment = client.get_experiment_by_name("sam2-miniature")
    parents = client.search_runs([experiment.experiment_id], WHOLE_RUNS)
    if len(parents) < 2:  # this test alone: a second run, all reused, gives something to compare with
        assert stack.run_pipeline(finished_run[0]).returncode == 0
        parents = client.search_runs([experiment.experiment_id], WHOLE_RUNS)
    identifiers = json.dumps([parent.info.run_id for parent in parents[:2]])
    experiments = json.dumps([experiment.experiment_id])
    page.goto(f"{stack.state.mlflow_url}/#/compare-runs?runs={identifiers}&experiments={experiments}")
    for metric in ("cost/usd", "cost/seconds"):
        expect(page.get_by_text(metric, exact=True).first).to_be_attached(timeout=PATIENCE_MILLISECONDS)
    page.get_by_text("cost/usd", exact=True).first.scroll_into_view_if_needed()
    keep_picture(page, "mlflow-compare")
    # The grid holds only the rows in view, and evaluation's are further down: they are there to be scrolled to.
    assert all("eval/bits_per_byte" in parent.data.metrics for parent in parents[:2])


def test_mlflow_lists_the_stages_below_their_run(stack: RunningStack, finished_run: Finished, page: Page) -> None:
    client = MlflowClient(tracking_uri=stack.state.mlflow_url)
    experiment = client.get_experiment_by_name("sam2-miniature")
    page.goto(f"{stack.state.mlflow_url}/#/experiments/{experiment.experiment_id}/runs")
    expect(page.get_by_text(finished_run[2].name, exact=True).first).to_be_visible(timeout=PATIENCE_MILLISECONDS)
    keep_picture(page, "mlflow-runs")
