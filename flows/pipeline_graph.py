"""The pipeline as data: which stages, on which inputs, under which configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from flows.configuration import PipelineConfig
from infra.artifacts import ArtifactStore, Stage, StageConfig, plan_fingerprint
from infra.errors import ArtifactCorrupted
from tasks import deduplication, download, evaluation, quality, quantization, registration, tokenization, training
from tasks.registration import RegistrationConfig, partial_training
from tasks.registration.formats import FLOAT32
from tasks.registration.task import ensure_registered_afterwards
from tasks.stage_task import Afterwards
from tasks.training import TrainingStageConfig

T = TypeVar("T")


@dataclass(frozen=True)
class PlannedStage:
    """One node: `inputs` maps the stage's input names to other nodes' names."""

    name: str
    title: str
    stage: Stage[Any]
    config: StageConfig
    inputs: dict[str, str] = field(default_factory=dict)
    afterwards: Afterwards | None = None

    def inputs_from(self, outputs: Mapping[str, T]) -> dict[str, T]:
        """The stage's inputs by their names, from what the graph's nodes put out."""
        return {name: outputs[source] for name, source in self.inputs.items()}


@dataclass(frozen=True)
class PlannedState:
    """What a dry run says of one node."""

    name: str
    title: str
    reference: str
    finished: bool
    note: str


def build_graph(config: PipelineConfig, stages: Sequence[TrainingStageConfig] | None = None) -> list[PlannedStage]:
    """The stages in an order in which they can run; `stages` replaces the curriculum by a shortened one."""
    nodes = _up_to_the_model(config, config.training_stages() if stages is None else stages)
    measured = {"checkpoint": nodes[-1].name, "tokens": "tokenization"}
    return [
        *nodes,
        PlannedStage("evaluation", "Evaluation", evaluation.STAGE, config.evaluation, measured),
        PlannedStage(
            "quantization",
            "Quantization",
            quantization.STAGE,
            config.quantization,
            {**measured, "evaluation": "evaluation"},
        ),
        _registration(config.registration, {**measured, "evaluation": "evaluation", "quantized": "quantization"}),
    ]


def build_partial_graph(
    config: PipelineConfig, stages: Sequence[TrainingStageConfig], reason: str
) -> list[PlannedStage]:
    """The graph of a run that was stopped: what was trained (`stages`, of `stop_at`) is registered as it is.

    Nothing is evaluated or quantized, so the model is served in float32 and becomes no champion. It is registered as
    partial unless its curriculum, shortened or not, had come to its end.
    """
    nodes = _up_to_the_model(config, stages)
    changes = {"serve_format": FLOAT32, "partial": partial_training(config.training_stages(), stages, reason)}
    settings = config.registration.model_copy(update=changes)
    return [*nodes, _registration(settings, {"checkpoint": nodes[-1].name, "tokens": "tokenization"})]


def _up_to_the_model(config: PipelineConfig, stages: Sequence[TrainingStageConfig]) -> list[PlannedStage]:
    """From the sources to the last checkpoint."""
    nodes = [
        PlannedStage("download", "Download", download.STAGE, config.download),
        PlannedStage("quality", "Quality filter", quality.STAGE, config.quality, {"documents": "download"}),
        PlannedStage(
            "deduplication", "Deduplication", deduplication.STAGE, config.deduplication, {"documents": "quality"}
        ),
        PlannedStage(
            "tokenization", "Tokenization", tokenization.STAGE, config.tokenization, {"documents": "deduplication"}
        ),
    ]
    previous = ""
    for index, stage_config in enumerate(stages):
        name = f"training-{index + 1}-{stage_config.name}"
        title = f"Training: {stage_config.name} ({stage_config.context_tokens} tokens of context)"
        inputs = {"tokens": "tokenization"} | ({"previous": previous} if previous else {})
        nodes.append(PlannedStage(name, title, training.STAGE, stage_config, inputs))
        previous = name
    return nodes


def _registration(settings: RegistrationConfig, inputs: dict[str, str]) -> PlannedStage:
    afterwards = partial(
        ensure_registered_afterwards,
        copy_limit_megabytes=settings.copy_limit_megabytes,
        promotion=settings.promotion,
    )
    return PlannedStage("registration", "Registration", registration.STAGE, settings, inputs, afterwards)


def plan(
    graph: list[PlannedStage], store: ArtifactStore, present: Mapping[str, str] | None = None
) -> list[PlannedState]:
    """What a run would reuse and what it would build, without building anything.

    Fingerprints depend on inputs' fingerprints, not on their content, so the whole chain is known.
    present: artifacts of other runs that stages take as inputs, node name -> `kind/fingerprint`.
    """
    references = planned_references(graph, present or {})
    states = []
    for node in graph:
        kind, _, fingerprint = references[node.name].partition("/")
        finished, note = _look(store, kind, fingerprint)
        states.append(PlannedState(node.name, node.title, references[node.name], finished, note))
    return states


def planned_references(graph: Sequence[PlannedStage], present: Mapping[str, str]) -> dict[str, str]:
    """`kind/fingerprint` of everything in a graph, `present` included: it depends on inputs' fingerprints alone."""
    references = dict(present)
    for node in graph:
        inputs = node.inputs_from(references)
        references[node.name] = f"{node.stage.kind}/{plan_fingerprint(node.stage, node.config, inputs)}"
    return references


def _look(store: ArtifactStore, kind: str, fingerprint: str) -> tuple[bool, str]:
    try:
        if store.find(kind, fingerprint) is not None:
            return True, "finished and intact: would be reused"
    except ArtifactCorrupted as error:
        return False, f"damaged ({error.problem}): would be repaired"
    return False, "would be built"
