"""The whole pipeline as one Prefect flow: `prefect deployment run sam2-full-pipeline`."""

from __future__ import annotations

from infra.quiet import apply_quiet_environment

apply_quiet_environment()

from functools import partial  # noqa: E402 (the quiet environment comes before anything that might read it)
from typing import Any  # noqa: E402

from prefect import flow, get_run_logger  # noqa: E402
from prefect.client.schemas.objects import State  # noqa: E402

from flows.configuration import PipelineOverrides, ProfileName, load_profile  # noqa: E402
from flows.curriculum_decisions import done_steps, graph_after  # noqa: E402
from flows.execution import TransferLog, completed, run_context, run_links, show_plan  # noqa: E402
from flows.guarded_execution import GuardedRun  # noqa: E402
from flows.pipeline_graph import build_graph  # noqa: E402
from flows.run_record import RunRecord, run_command  # noqa: E402
from infra.stack import StackSettings  # noqa: E402
from tasks.deduplication import resolve_references  # noqa: E402
from tasks.download import resolve_sources  # noqa: E402
from tasks.download.progress import transfers_observed  # noqa: E402
from tasks.evaluation import resolve_evaluation  # noqa: E402
from tasks.quality import resolve_classifiers  # noqa: E402
from tasks.sharded_work import fork_server  # noqa: E402
from tasks.tokenization import resolve_tokenizer  # noqa: E402


@flow(name="sam2-full-pipeline", persist_result=True, result_serializer="json", log_prints=True)
def full_pipeline(
    profile: ProfileName = ProfileName.SMOKE,
    overrides: PipelineOverrides | None = None,
    dry_run: bool = False,
) -> State[Any]:
    """Raw text in; a trained, evaluated, quantized and registered language model out, with its cost.

    Finished artifacts are reused, an interrupted run continues from its last finished shard or
    checkpoint, and the summary and report are written whatever the end. A run that would cost more than
    `budget.ceiling_usd` waits, with a checkpoint, for an answer: approve, shrink or stop.

    Args:
        profile: What to run: a file of flows/profiles/, by name.
        overrides: Fields of the profile to change for this run; leave empty what should stay.
        dry_run: Only show what is finished, what would run, and what that is expected to cost.
    """
    changes = overrides.model_dump(exclude_unset=True, exclude_none=True) if overrides else {}
    home = StackSettings.from_environment().home
    config = load_profile(ProfileName(profile).value, changes)
    if not dry_run and config.download.workers > 1:
        fork_server()  # loads what the workers need while sources are pinned
    with transfers_observed(TransferLog(get_run_logger())):
        download = resolve_sources(config.download, home / "downloads")
    config = config.model_copy(
        update={
            "download": download,
            "quality": resolve_classifiers(config.quality),
            "deduplication": resolve_references(config.deduplication),
            "tokenization": resolve_tokenizer(config.tokenization),
            "evaluation": resolve_evaluation(config.evaluation),
        }
    )
    run = run_context(config, home)
    graph = build_graph(config)
    if dry_run:
        return show_plan(graph, run, done_steps=done_steps(run.store(), graph))
    record = RunRecord(config, run, run_command(run.profile, changes), run_links(run))
    GuardedRun(
        run,
        config.budget,
        record,
        partial(graph_after, config, run.store()),
        partial(done_steps, run.store()),
        can_shrink=True,
    ).execute()
    return completed(run, record)
