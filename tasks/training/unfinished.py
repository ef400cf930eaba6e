"""What an unfinished training stage has done, and handing it over to the same stage made shorter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from infra.artifacts import ArtifactStore, adopt_unfinished, plan_fingerprint
from infra.artifacts.shards import SCRATCH_DIRECTORY
from infra.storage import LocalStorage, Storage, open_storage
from tasks.training.checkpoints.place import CheckpointPlace
from tasks.training.config import TrainingStageConfig
from tasks.training.job import CHECKPOINT_DIRECTORY, INCIDENT_FILE
from tasks.training.profiling import PROFILE_DIRECTORY
from tasks.training.stage import STAGE, is_trained

#: What an attempt leaves beside its scratch that belongs to the stage, not to the attempt.
_KEPT_FILES = (INCIDENT_FILE, PROFILE_DIRECTORY)


def done_updates(store: ArtifactStore, config: TrainingStageConfig, inputs: Mapping[str, str]) -> int:
    """Updates of a stage that are kept: all of a finished one, else those of its newest checkpoint, else 0.

    inputs: name -> `kind/fingerprint`. To be asked once its trainer has ended: a trainer that is stopped makes its
    update and saves it, so that there can be more than it has told of.
    """
    fingerprint = plan_fingerprint(STAGE, config, inputs)
    if store.has_manifest(STAGE.kind, fingerprint) or is_trained(store, fingerprint):
        return config.steps
    published = [
        (found.sequence, found.step)
        for storage in _checkpoint_storages(store, fingerprint)
        for found in CheckpointPlace(storage).published(lambda _: None)
    ]
    return max(published)[1] if published else 0


def carry_over(
    store: ArtifactStore, before: TrainingStageConfig, after: TrainingStageConfig, inputs: Mapping[str, str]
) -> bool:
    """Let `after`, the same stage made shorter, go on from where `before` was stopped; both have these inputs.

    To be called before every build of `after`: what is handed over already stays there. Returns whether anything
    was handed over by this call. Raises PipelineError while a living process builds either of them.
    """
    fingerprints = [plan_fingerprint(STAGE, config, inputs) for config in (before, after)]
    return adopt_unfinished(store, STAGE.kind, *fingerprints, files=_KEPT_FILES)


def _checkpoint_storages(store: ArtifactStore, fingerprint: str) -> Iterator[Storage]:
    """Where the stage's checkpoints are, on this machine and in a bucket."""
    local = store.working_directory(STAGE.kind, fingerprint) / SCRATCH_DIRECTORY / CHECKPOINT_DIRECTORY
    if local.is_dir():
        yield LocalStorage(local)
    if store.storage.local_path("") is None:
        place = f"{store.prefix(STAGE.kind, fingerprint)}/{SCRATCH_DIRECTORY}/{CHECKPOINT_DIRECTORY}"
        yield open_storage(store.storage.uri(place))
