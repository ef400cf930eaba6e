"""The thin Prefect task around a stage: progress, tables, MLflow, the ledger, and nothing else.

Prefect's own result cache is not used: it would answer 'Cached' for an artifact that was deleted
or damaged since. Every call asks the artifact store, which verifies checksums; what is finished
and intact comes back within milliseconds and shows as state `Reused` in the UI. *Retry* of a
failed run therefore re-runs from the failed stage, and from its last finished shard.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed

from infra.artifacts import Artifact, BuildOutcome, Stage, StageConfig, build_stage
from infra.budget import ComputePrice
from infra.tracking import StageTracker
from tasks.guard import BudgetGuard, BudgetHold, StageWatch
from tasks.guard.guard import SPEED_METRIC
from tasks.reporting.formatting import dollars
from tasks.run_context import ArtifactReference, RunContext

#: Called with the finished artifact, new or reused: for effects outside the store (registration).
Afterwards = Callable[[Artifact, RunContext], Mapping[str, str]]

_UI_SECONDS = 2.0
_LOG_SECONDS = 15.0


@task(
    name="stage",
    task_run_name="{name}",
    cache_policy=NO_CACHE,
    persist_result=True,
    result_serializer="json",
)
def run_stage(
    name: str,
    stage: Stage[Any],
    config: StageConfig,
    inputs: dict[str, ArtifactReference],
    run: RunContext,
    afterwards: Afterwards | None = None,
    guard: BudgetGuard | None = None,
) -> State[ArtifactReference]:
    """Build one stage's artifact, or find it finished, and tell everyone who watches.

    A stage that the guard holds ends as `OnHold`, with the reason in `guard.hold`.
    """
    log = get_run_logger()
    tracker = run.tracker().stage(name, config.identity())
    ledger = run.ledger()
    earlier_usd = ledger.total_usd(run_id=run.flow_run_id)
    with ledger.attempt(run_id=run.flow_run_id, profile=run.profile, stage=name, price=run.price) as attempt:
        watch = guard.watch(name, attempt.attempt_id) if guard else None
        progress = StageProgress(name, tracker, log, run.price, watch, earlier_usd)
        started = time.monotonic()
        try:
            outcome = _build(stage, config, inputs, run, progress, log)
            links = afterwards(outcome.artifact, run) if afterwards else {}
        except BudgetHold as hold:
            assert guard is not None
            guard.hold = hold
            attempt.outcome = "suspended"
            tracker.hold(hold.problem)
            return Cancelled(name="OnHold", message=hold.problem)
        except BaseException as error:
            tracker.fail(f"{type(error).__name__}: {error}")
            raise
        attempt.outcome = "reused" if outcome.reused else "completed"
        seconds = time.monotonic() - started
    reference = _reference(outcome, seconds, run.price.usd(seconds))
    costs = stage_costs(outcome, seconds, run)
    tracker.complete(
        outcome.artifact.manifest, outcome.artifact.uri, outcome.artifact.directory, costs, reused=outcome.reused
    )
    progress.finish()
    publish_tables(name, outcome.artifact, costs)
    for key, address in links.items():
        create_link_artifact(link=address, link_text=key, key=artifact_key(name, key))
    log.info("%s: %s", name, describe(outcome, seconds))
    return _final_state(reference, outcome, seconds)


def _build(
    stage: Stage[Any],
    config: StageConfig,
    inputs: dict[str, ArtifactReference],
    run: RunContext,
    progress: StageProgress,
    log: logging.Logger | logging.LoggerAdapter[logging.Logger],
) -> BuildOutcome:
    store = run.store()
    artifacts = {key: reference.open(store) for key, reference in inputs.items()}
    return build_stage(
        stage, config, artifacts, store,
        report=progress.report, log=log, usd_per_hour=run.price.usd_per_hour,  # type: ignore[arg-type]
    )  # fmt: skip


def describe(outcome: BuildOutcome, seconds: float) -> str:
    """One line for people: reused or built, how long, how large."""
    manifest = outcome.artifact.manifest
    size = f"{manifest.size_bytes / 1e6:.1f} MB"
    if outcome.reused:
        return f"reused {manifest.kind} {manifest.fingerprint[:12]} ({size}, verified in {seconds:.1f} s)"
    repaired = f"; repaired: {outcome.repaired}" if outcome.repaired else ""
    return f"built {manifest.kind} {manifest.fingerprint[:12]} ({size}) in {seconds:.1f} s{repaired}"


def stage_costs(outcome: BuildOutcome, seconds: float, run: RunContext) -> dict[str, float]:
    """The `cost/*` figures every stage run carries, so that MLflow's Compare shows them."""
    costs = {
        "cost/usd": run.price.usd(seconds),
        "cost/seconds": seconds,
        "cost/usd_when_built": outcome.artifact.manifest.cost.usd,
        "cost/seconds_when_built": outcome.artifact.manifest.cost.seconds,
    }
    metrics = outcome.artifact.manifest.metrics
    tokens = metrics.get("throughput/tokens", metrics.get("train/tokens"))
    if tokens:
        costs["cost/usd_per_million_tokens"] = outcome.artifact.manifest.cost.usd / tokens * 1e6
    return costs


def publish_tables(name: str, artifact: Artifact, costs: Mapping[str, float]) -> None:
    """Put the stage's tables into the Prefect UI, each with what the stage cost."""
    manifest = artifact.manifest
    built = manifest.cost
    cost = f"{built.seconds:.1f} s, {built.usd:.5f} USD when built; {costs['cost/usd']:.5f} USD in this run"
    for title, rows in manifest.tables.items():
        create_table_artifact(table=rows, key=artifact_key(name, title), description=f"**{name}: {title}** ({cost})")
    overview = [
        {"figure": "artifact", "value": f"{manifest.kind}/{manifest.fingerprint}"},
        {"figure": "size", "value": f"{manifest.size_bytes / 1e6:.2f} MB"},
        *({"figure": key, "value": f"{value:.6g}"} for key, value in {**costs, **manifest.metrics}.items()),
    ]
    create_table_artifact(table=overview, key=artifact_key(name, "figures"), description=f"**{name}: figures**")


def artifact_key(*parts: str) -> str:
    """Prefect artifact keys: lowercase letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


class StageProgress:
    """Sends a stage's progress and cost so far to the Prefect UI, the log and MLflow, each at its own pace."""

    def __init__(
        self,
        name: str,
        tracker: StageTracker,
        log: logging.Logger | logging.LoggerAdapter[logging.Logger],
        price: ComputePrice,
        watch: StageWatch | None = None,
        earlier_usd: float = 0.0,
    ) -> None:
        """earlier_usd: what the run had spent before this attempt."""
        self._earlier_usd = earlier_usd
        self._tracker = tracker
        self._watch = watch
        self._log = log
        self._name = name
        self._price = price
        self._artifact_id = create_progress_artifact(
            progress=0.0, key=artifact_key(name, "progress"), description=f"{name}: starting"
        )
        self._started = self._last_ui = self._last_log = self._last_cost = time.monotonic()

    @property
    def usd(self) -> float:
        """What this attempt has cost until now."""
        return self._price.usd(time.monotonic() - self._started)

    def report(self, fraction: float, message: str, metrics: Mapping[str, float] | None = None) -> None:
        """The stage's `report` callback. Raises BudgetHold when the stage must not go on."""
        forecast = self._watch(fraction, metrics) if self._watch else None
        if forecast is not None:
            self._log.info("%s: budget: %s", self._name, forecast.describe())
        now = time.monotonic()
        due = now - self._last_cost >= _UI_SECONDS
        if metrics or due:
            self._tracker.live({**(metrics or {}), **self._costs(now, metrics or {})})
        if due:
            self._last_cost = now
            self._tracker.live_of_run({"cost/usd": self._earlier_usd + self.usd})
        if now - self._last_ui >= _UI_SECONDS:
            self._last_ui = now
            self._update(100 * min(1.0, fraction), f"{message}, {dollars(self.usd)}")
        if now - self._last_log >= _LOG_SECONDS:
            self._last_log = now
            self._log.info("%s: %3.0f %% %s, %s", self._name, 100 * fraction, message, dollars(self.usd))

    def _costs(self, now: float, metrics: Mapping[str, float]) -> dict[str, float]:
        """The `cost/*` figures of a stage at work, under the names that its end has."""
        costs = {"cost/usd": self.usd, "cost/seconds": now - self._started}
        speed = metrics.get(SPEED_METRIC)
        if speed:
            costs["cost/usd_per_million_tokens"] = self._price.usd(1e6 / speed)
        return costs

    def finish(self) -> None:
        """Show the stage as done."""
        self._update(100.0, f"done, {dollars(self.usd)}")

    def _update(self, percent: float, message: str) -> None:
        update_progress_artifact(
            artifact_id=UUID(str(self._artifact_id)), progress=percent, description=f"{self._name}: {message}"
        )


def _reference(outcome: BuildOutcome, seconds: float, usd: float) -> ArtifactReference:
    artifact = outcome.artifact
    return ArtifactReference(
        kind=artifact.manifest.kind,
        fingerprint=artifact.manifest.fingerprint,
        uri=artifact.uri,
        reused=outcome.reused,
        seconds=seconds,
        usd=usd,
    )


def _final_state(reference: ArtifactReference, outcome: BuildOutcome, seconds: float) -> State[ArtifactReference]:
    message = describe(outcome, seconds)
    return Completed(name="Reused" if outcome.reused else "Completed", message=message, data=reference)
