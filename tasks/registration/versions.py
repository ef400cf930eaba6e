"""Reading the MLflow registry: versions by number, alias or fingerprint, and what their tags say."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from infra.errors import ConfigurationError
from tasks.registration.partial import PARTIAL, PARTIAL_TOKENS
from tasks.registration.version import RegisteredVersion

CANDIDATE, CHAMPION = "candidate", "champion"
#: The newest version whose training was stopped early; such a one is no candidate.
PARTIAL_ALIAS = "partial"
FINGERPRINT = "sam2.fingerprint"
PREVIOUS = "sam2.previous_champion"
ROLLED_BACK = "sam2.rolled_back"
GATES_PASSED = "sam2.gates_passed"
GATES = "sam2.gates"
MISSED = "sam2.missed_gates"
#: Whether the version became champion when it was registered, and why: `PENDING` until that is decided.
PROMOTION = "sam2.promotion"
COMPARED_WITH, COMPARISON = "sam2.compared_with", "sam2.comparison"
BUNDLE_URI, BUNDLE_CHECKSUM = "sam2.bundle_uri", "sam2.bundle_checksum"
PENDING = "pending"
#: Value of `GATES` when there was no evaluation because the run was stopped.
UNEVALUATED = "not evaluated"
MODEL_PATH = "model"
TEXT_LIMIT = 4900
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def open_registry(tracking_uri: str) -> MlflowClient:
    """A client whose registry is the tracking server's."""
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def all_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions, newest first."""
    versions: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", max_results=1000, page_token=token)
        versions += page
        token = page.token
        if not token:
            return sorted(versions, key=lambda version: int(version.version), reverse=True)


def with_fingerprint(client: MlflowClient, name: str, fingerprint: str) -> list[ModelVersion]:
    """The versions of one bundle, oldest first: one, unless two runs are registering it at this moment."""
    return [found for found in all_versions(client, name)[::-1] if found.tags.get(FINGERPRINT) == fingerprint]


def aliased(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version an alias points to; None when there is no such alias. A registry that cannot answer raises."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code not in _NOT_THERE:
            raise
        return None


def get_version(client: MlflowClient, name: str, which: str) -> ModelVersion:
    """A version by its number or alias; raises ConfigurationError naming what there is."""
    try:
        found = client.get_model_version(name, which) if which.isdigit() else aliased(client, name, which)
    except MlflowException as error:
        if error.error_code not in _NOT_THERE:
            raise
        found = None
    if found is None:
        raise ConfigurationError(
            f"model '{name}' has no version {which}." if which.isdigit() else f"model '{name}' has no '{which}'.",
            f"choose one of: {_known(client, name)}.",
        )
    return found


def number_of(version: ModelVersion | None) -> str | None:
    """The version's number as text: some of MLflow's stores give integers."""
    return None if version is None else str(version.version)


def aliases_of(client: MlflowClient, name: str, version: str) -> list[str]:
    """The aliases that point to a version, sorted."""
    registered = client.get_registered_model(name)
    return sorted(alias for alias, target in registered.aliases.items() if str(target) == str(version))


def describe(client: MlflowClient, name: str, version: str, *, created: bool) -> RegisteredVersion:
    """The version as the registry holds it now."""
    current = client.get_model_version(name, version)
    aliases = aliases_of(client, name, version)
    return RegisteredVersion(
        name=name, version=str(version), aliases=aliases, note=note_of(current, CHAMPION in aliases), created=created
    )


def note_of(version: ModelVersion, is_champion: bool) -> str:
    """Its gates, why it became champion or did not, and whether it was rolled back."""
    parts = [_gates_note(version)]
    reason = version.tags.get(PROMOTION, "")
    if reason and reason != PENDING:
        parts.append(reason)
    elif not is_champion and version.tags.get(GATES_PASSED) != "true":
        parts.append("It is not champion.")
    if version.tags.get(ROLLED_BACK) == "true":
        parts.append("It was rolled back.")
    return " ".join(parts)


def is_partial(version: ModelVersion) -> bool:
    """Whether the model's training was stopped early."""
    return bool(version.tags.get(PARTIAL) == "true")


def _gates_note(version: ModelVersion) -> str:
    if is_partial(version):
        return f"Partial: {version.tags[PARTIAL_TOKENS]} planned tokens; {version.tags.get(MISSED)}."
    if version.tags.get(GATES_PASSED) == "true":
        return f"Gates: {version.tags.get(GATES, '')}."
    missed = version.tags.get(MISSED)
    return f"Not passed: {missed}." if missed else "No gate was judged."


def _known(client: MlflowClient, name: str) -> str:
    versions = all_versions(client, name)
    if not versions:
        models = sorted(model.name for model in client.search_registered_models())
        return f"models {', '.join(models)}" if models else "nothing: no model is registered"
    aliases = sorted(client.get_registered_model(name).aliases)
    return ", ".join([*(str(version.version) for version in versions), *aliases])
