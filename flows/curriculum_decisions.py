"""The pipeline's graph after what was decided about its money: the whole of it, a shortened one, or a partial one."""

from __future__ import annotations

from collections.abc import Sequence

from flows.configuration import PipelineConfig
from flows.pipeline_graph import PlannedStage, build_graph, build_partial_graph, planned_references
from infra.artifacts import ArtifactStore
from tasks.guard import Choice, Decision
from tasks.training import TrainingStageConfig
from tasks.training.shortening import shorten_curriculum, stop_at
from tasks.training.unfinished import carry_over, done_updates


def graph_after(config: PipelineConfig, store: ArtifactStore, decided: Sequence[Decision]) -> list[PlannedStage]:
    """The graph these decisions lead to; what a stage they cut short has made is moved to where that stage looks."""
    stages = config.training_stages()
    for decision in decided:
        if decision.choice is Choice.APPROVE:
            continue
        stop = decision.choice is Choice.STOP
        after = (
            stop_at(stages, decision.done_steps)
            if stop
            else shorten_curriculum(stages, decision.done_steps, decision.share)
        )
        _carry_over(config, store, stages, after)
        if stop:
            return build_partial_graph(config, after, f"{decision.decided_by} stopped the run for its cost")
        stages = after
    return build_graph(config, stages)


def done_steps(store: ArtifactStore, graph: Sequence[PlannedStage]) -> dict[str, int]:
    """Updates that finished stages made and that checkpoints of unfinished ones hold, by training stage."""
    references = planned_references(graph, {})
    done = {}
    for node in graph:
        if isinstance(node.config, TrainingStageConfig):
            done[node.config.name] = done_updates(store, node.config, node.inputs_from(references))
    return done


def _carry_over(
    config: PipelineConfig,
    store: ArtifactStore,
    before: Sequence[TrainingStageConfig],
    after: Sequence[TrainingStageConfig],
) -> None:
    """Give the first stage that was cut what its uncut form has made; later ones have made nothing."""
    graph = build_graph(config, before)
    references = planned_references(graph, {})
    nodes = {node.config.name: node for node in graph if isinstance(node.config, TrainingStageConfig)}
    for old, new in zip(before, after, strict=False):  # a stop drops the stages after the cut one
        if old != new:
            carry_over(store, old, new, nodes[old.name].inputs_from(references))
            return
