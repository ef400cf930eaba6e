"""The Markdown report and the files: every section, only pictures that exist, whole files."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.planning import BudgetPlan
from tasks.planning.presentation import (
    Findings,
    PlanRisk,
    ProjectInputs,
    find,
    markdown_report,
    plan_json,
    plan_risk,
    write_plan,
)
from tasks.planning.presentation.findings import pattern_flops
from tasks.planning.presentation.plots import memory_figure, write_plots
from tests.tasks.planning.presentation.plans import small_plan

START = datetime(2026, 11, 1, tzinfo=UTC)
SECTIONS = [
    "Executive summary", "Model", "Memory", "Curriculum", "Hardware and providers", "Data and its processing",
    "Cost breakdown", "Development and validation", "Risk", "Optimisation", "Budgets", "Timeline",
    "Return and break-even", "Assumptions and sources",
]  # fmt: skip


@pytest.fixture(scope="module")
def findings() -> Findings:
    project = ProjectInputs()
    risk = plan_risk(small_plan(), project, draws=400)
    assert risk is not None
    return find(small_plan(), risk, project, START)


@pytest.fixture(scope="module")
def directory(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("plan")
    write_plan(place, small_plan(), findings)
    return place


def headings(report: str) -> list[str]:
    return re.findall(r"^## (.+)$", report, re.MULTILINE)


def test_the_report_has_the_founding_report_s_sections_in_order(findings: Findings) -> None:
    assert headings(markdown_report(small_plan(), findings)) == SECTIONS


def test_without_risk_its_sections_are_left_out() -> None:
    found = headings(markdown_report(small_plan()))
    assert "Risk" not in found
    assert "Budgets" not in found
    assert found[0] == "Executive summary"


def test_a_plan_that_fits_nothing_still_makes_a_report_that_says_why() -> None:
    report = markdown_report(small_plan(gpu_memory_gb=0.1))
    assert "Nothing fits" in report
    assert "Cost breakdown" not in headings(report)


def test_every_table_of_the_report_is_square(findings: Findings) -> None:
    lines = markdown_report(small_plan(), findings).splitlines()
    rules = [number for number, line in enumerate(lines) if re.fullmatch(r"\|(:?-+:?\|)+", line)]
    assert len(rules) > 12
    for number in rules:
        columns = lines[number].count("|")
        row = number - 1
        while row < len(lines) and lines[row].startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", lines[row])) == columns, lines[row]
            row += 1


def test_the_pictures_of_the_report_are_there_and_are_png(directory: Path) -> None:
    shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (directory / "plan.md").read_text())
    assert set(shown) == {path.name for path in directory.glob("*.png")}
    assert len(shown) == 8
    for name in shown:
        assert (directory / name).read_bytes().startswith(b"\x89PNG")


def test_the_same_plan_makes_the_same_picture_and_report(directory: Path, findings: Findings, tmp_path: Path) -> None:
    (picture,) = write_plots({"memory": memory_figure(small_plan())}, tmp_path)
    assert picture.read_bytes() == (directory / "memory.png").read_bytes()
    names = [path.name for path in directory.glob("*.png")]
    assert markdown_report(small_plan(), findings, plots=names) == (directory / "plan.md").read_text()


def test_json_reads_back_as_plan_and_risk(directory: Path, findings: Findings) -> None:
    content = json.loads((directory / "plan.json").read_text())
    assert BudgetPlan.model_validate(content["plan"]) == small_plan()
    assert PlanRisk.model_validate(content["risk"]) == findings.risk
    assert json.loads(plan_json(small_plan()))["risk"] is None


def test_measures_against_spot_appear_with_spot_alone(findings: Findings) -> None:
    names = {value.name for value in findings.mitigations}
    assert {"best checkpoint interval", "on-demand instead of spot", "calibration run"} <= names
    dear = small_plan(deadline_hours=small_plan().option("own slow spot").training_hours / 3)
    risk = plan_risk(dear, ProjectInputs(), draws=50)
    assert risk is not None
    assert "spot" not in risk.option
    other = {value.name for value in find(dear, risk, ProjectInputs(), START).mitigations}
    assert "best checkpoint interval" not in other


def test_the_timeline_begins_where_it_is_told_and_ends_with_the_validation(findings: Findings) -> None:
    names = [activity.name for activity in findings.timeline.activities]
    assert names == ["implementation", "short", "long", "validation"]
    assert findings.timeline.start == START


def test_the_return_is_that_of_the_expected_cost(findings: Findings) -> None:
    assert findings.returns.investment.usd == findings.risk.project.cost_usd.mean


def test_a_hybrid_is_compared_with_more_and_with_less_attention() -> None:
    planned, fewer, everywhere = pattern_flops(small_plan())
    assert planned.flops == pytest.approx(small_plan().total_flops)
    assert fewer.attention_layers < planned.attention_layers < everywhere.attention_layers
    assert everywhere.attention_layers == small_plan().request.model.layer_count


def test_the_smallest_budget_that_is_nearly_always_enough_is_recommended(findings: Findings) -> None:
    report = markdown_report(small_plan(), findings)
    enough = [tier.budget_usd for tier in findings.risk.tiers if tier.probability >= 0.9]
    assert f"Recommended: aggressive, ${min(enough):,.0f}" in report.replace("**", "")
