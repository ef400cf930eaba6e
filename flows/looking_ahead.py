"""A flow run's stages as the forecast sees them, and what is known here of how long they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from flows.pipeline_graph import PlannedStage, planned_references
from infra.artifacts import ArtifactStore
from infra.errors import ArtifactCorrupted
from tasks.calibration import CalibrationStore
from tasks.forecasting import Evidence, Forecast, ForecastStage, estimate_stages, measured_rates
from tasks.forecasting.evidence import last_seconds
from tasks.run_context import RunContext
from tasks.training import TrainingStageConfig
from tasks.training.peak_flops import peak_flops


def look_ahead(
    graph: Sequence[PlannedStage], run: RunContext, present: Mapping[str, str], done: Mapping[str, int]
) -> Forecast:
    """What the run will have cost, before it begins; see `forecast_stages`."""
    stages = forecast_stages(graph, run.store(), present, done)
    estimates = estimate_stages(stages, evidence_of(run, stages), run.price)
    return Forecast(spent_usd=run.ledger().total_usd(profile=run.profile), stages=estimates)


def forecast_stages(
    graph: Sequence[PlannedStage], store: ArtifactStore, present: Mapping[str, str], done: Mapping[str, int]
) -> list[ForecastStage]:
    """The graph's nodes.

    present: `kind/fingerprint` of artifacts that stages take as inputs, by node name. done: updates that checkpoints of
    unfinished training stages hold, by stage name.
    """
    references = planned_references(graph, present)
    return [
        ForecastStage(
            node.name,
            node.title,
            training=node.config if isinstance(node.config, TrainingStageConfig) else None,
            done_steps=done.get(getattr(node.config, "name", ""), 0),
            finished=_is_finished(store, references[node.name]),
        )
        for node in graph
    ]


def evidence_of(run: RunContext, stages: Sequence[ForecastStage]) -> Evidence:
    """What is known of speed in this home: finished stages, the ledger, calibrations; else the device's peak."""
    if all(stage.finished for stage in stages):
        return Evidence()  # nothing is left to estimate: no manifest of the store need be read
    evidence = Evidence(measured_rates(run.store().manifests()), last_seconds(run.ledger().attempts(), run.profile))
    store = CalibrationStore.of_home(run.home)
    training = {stage.name: stage.training for stage in stages if stage.training and not stage.finished}
    found = {name: store.find_for(config) for name, config in training.items()}
    evidence = replace(evidence, calibrations={name: one for name, one in found.items() if one is not None})
    unknown = [config for name, config in training.items() if found[name] is None and not evidence.nearest_rate(config)]
    if not unknown:
        return evidence
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = peak_flops(device, unknown[0].precision, unknown[0].peak_teraflops).per_second
    return replace(evidence, peak_flops_per_second=unknown[0].ranks * peak)


def _is_finished(store: ArtifactStore, reference: str) -> bool:
    kind, _, fingerprint = reference.partition("/")
    try:
        return store.read_manifest(kind, fingerprint) is not None
    except ArtifactCorrupted:
        return False
