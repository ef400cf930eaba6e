"""What a run is expected to cost before it begins: a dry run's figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.configuration import load_profile
from flows.looking_ahead import evidence_of, forecast_stages, look_ahead
from flows.pipeline_graph import build_graph, planned_references
from infra.artifacts import ArtifactStore
from infra.artifacts.manifest import Manifest
from infra.budget import ComputePrice
from tasks.forecasting import Basis
from tasks.run_context import RunContext


@pytest.fixture
def run(tmp_path: Path) -> RunContext:
    price = ComputePrice(provider="test", usd_per_hour=3600.0, note="")
    return RunContext(
        flow_run_id="run",
        run_name="name",
        profile="miniature",
        home=tmp_path,
        artifact_root=str(tmp_path / "artifacts"),
        tracking_uri="",
        experiment="",
        price=price,
    )


def test_a_first_run_is_forecast_from_the_devices_peak(run: RunContext) -> None:
    graph = build_graph(load_profile("miniature", {"training": {"peak_teraflops": 0.01}}))
    forecast = look_ahead(graph, run, {}, {})
    assert [stage.name for stage in forecast.stages] == [node.name for node in graph]
    bases = {stage.name: stage.basis for stage in forecast.stages}
    assert bases["training-1-short"] is Basis.ASSUMED
    assert bases["evaluation"] is Basis.SHARE
    assert 0 < forecast.low_usd < forecast.expected_usd < forecast.high_usd
    assert forecast.spent_usd == 0


def test_finished_attempts_and_checkpoints_are_taken_off(run: RunContext, tmp_path: Path) -> None:
    graph = build_graph(load_profile("miniature", {"training": {"peak_teraflops": 0.01}}))
    whole = look_ahead(graph, run, {}, {})
    half = look_ahead(graph, run, {}, {"short": 10})  # of twenty updates
    assert half.stages[4].usd == pytest.approx(whole.stages[4].usd / 2)
    with run.ledger().attempt(run_id="earlier", profile="miniature", stage="evaluation", price=run.price):
        pass
    again = look_ahead(graph, run, {}, {})
    assert next(stage for stage in again.stages if stage.name == "evaluation").basis is Basis.LAST_TIME
    assert again.spent_usd > 0


def test_a_finished_artifact_costs_nothing_and_a_damaged_manifest_is_not_finished(run: RunContext) -> None:
    graph = build_graph(load_profile("miniature"))
    store: ArtifactStore = run.store()
    references = planned_references(graph, {})
    for node, content in ((graph[0], b""), (graph[1], b"{")):
        fingerprint = references[node.name].rpartition("/")[2]
        manifest = Manifest(
            kind=node.stage.kind, fingerprint=fingerprint, stage=node.name, stage_version=1, config={}, inputs={},
            files=(), created_at="2026-01-01",
        )  # fmt: skip
        store.storage.write(f"{references[node.name]}/manifest.json", content or manifest.model_dump_json().encode())
    found = {stage.name: stage.finished for stage in forecast_stages(graph, store, {}, {})}
    assert (found[graph[0].name], found[graph[1].name]) == (True, False)


def test_evidence_is_not_measured_where_nothing_is_left_to_train(run: RunContext) -> None:
    assert evidence_of(run, []).peak_flops_per_second is None
