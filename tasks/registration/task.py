"""What follows the registration stage in a run, new bundle or reused: the registry is brought in line with it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import ViewType

from infra.artifacts import Artifact, Manifest
from tasks.registration.config import PromotionRule, RegistrationConfig
from tasks.registration.packaging import save_mlflow_model
from tasks.registration.registry import SaveModel, ensure_registered, find_version
from tasks.registration.version import RegisteredVersion
from tasks.run_context import RunContext

#: Kinds of artifacts that are versions of a registered model: bundles of models, and of adapters.
_REGISTERED_KINDS = ("registration", "adapter")
_DEFAULT_LIMIT_MEGABYTES = float(RegistrationConfig().copy_limit_megabytes)


def ensure_registered_afterwards(
    artifact: Artifact,
    run: RunContext,
    copy_limit_megabytes: float = _DEFAULT_LIMIT_MEGABYTES,
    save: SaveModel = save_mlflow_model,
    stage: str = "registration",
    promotion: PromotionRule = "not-worse",
) -> Mapping[str, str]:
    """Register the bundle, in the MLflow run of the run's `stage`, and return links to show (title -> address)."""
    registered = ensure_registered(
        artifact,
        run.tracking_uri,
        run_id=stage_run_id(run, stage),
        copy_limit_bytes=copy_limit_megabytes * 1e6,
        save=save,
        promotion=promotion,
    )
    if not run.tracking_uri.startswith(("http://", "https://")):
        return {}
    page = f"{run.tracking_uri.rstrip('/')}/#/models/{quote(registered.name)}/versions/{registered.version}"
    return {f"{registered.name} version {registered.version}": page}


def registered_version(manifest: Manifest | None, run: RunContext) -> RegisteredVersion | None:
    """What the registry holds now of a finished registration stage; None when it holds nothing."""
    if manifest is None or manifest.kind not in _REGISTERED_KINDS:
        return None
    return find_version(run.tracking_uri, str(manifest.config["model_name"]), manifest.fingerprint)


def stage_run_id(run: RunContext, stage: str = "registration") -> str | None:
    """The MLflow run of one of this run's stages; None when it has none."""
    client = MlflowClient(tracking_uri=run.tracking_uri)
    experiment = client.get_experiment_by_name(run.experiment)
    if experiment is None:
        return None
    wanted = f"tags.`sam2.flow_run_id` = '{run.flow_run_id}' and tags.`sam2.stage` = '{stage}'"
    found = client.search_runs([experiment.experiment_id], wanted, ViewType.ACTIVE_ONLY, max_results=1)
    return str(found[0].info.run_id) if found else None
