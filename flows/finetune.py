"""Instruction tuning as one Prefect flow: `prefect deployment run sam2-finetune`."""

from __future__ import annotations

from infra.quiet import apply_quiet_environment

apply_quiet_environment()

from typing import Any  # noqa: E402 (the quiet environment comes before anything that might read it)

from prefect import flow, get_run_logger  # noqa: E402
from prefect.client.schemas.objects import State  # noqa: E402

from flows.execution import TransferLog, completed, run_context, run_links, show_plan  # noqa: E402
from flows.finetune_configuration import (  # noqa: E402
    FinetuneOverrides,
    FinetuneProfileName,
    build_finetune_graph,
    find_base,
    load_finetune_profile,
    resolve,
)
from flows.guarded_execution import GuardedRun  # noqa: E402
from flows.run_record import RunRecord, run_command  # noqa: E402
from infra.stack import StackSettings  # noqa: E402
from tasks.download.progress import transfers_observed  # noqa: E402


@flow(name="sam2-finetune", persist_result=True, result_serializer="json", log_prints=True)
def finetune(
    profile: FinetuneProfileName = FinetuneProfileName.CHAT,
    overrides: FinetuneOverrides | None = None,
    dry_run: bool = False,
) -> State[Any]:
    """Conversations and a registered model in; LoRA adapters, measured before and after, and registered, out.

    Finished artifacts are reused, an interrupted run continues from its last checkpoint, and the summary and report
    are written whatever the end.

    Args:
        profile: What to run: a file of flows/finetune_profiles/, by name.
        overrides: Fields of the profile to change for this run; leave empty what should stay.
        dry_run: Only show what is finished, what would run, and what that is expected to cost.
    """
    changes = overrides.model_dump(exclude_unset=True, exclude_none=True) if overrides else {}
    home = StackSettings.from_environment().home
    config = load_finetune_profile(FinetuneProfileName(profile).value, changes)
    run = run_context(config, home)
    present = find_base(run.store(), config.base)
    get_run_logger().info(
        "the base is %s (%s)", present["base"].reference, present["base"].manifest.config["model_name"]
    )
    with transfers_observed(TransferLog(get_run_logger())):
        config = resolve(config, present["base"], home / "downloads")
    graph = build_finetune_graph(config)
    if dry_run:
        return show_plan(graph, run, present)
    record = RunRecord(config, run, run_command(run.profile, changes, "sam2 finetune"), run_links(run))
    GuardedRun(run, config.budget, record, lambda decided: graph, present=present).execute()
    return completed(run, record)
