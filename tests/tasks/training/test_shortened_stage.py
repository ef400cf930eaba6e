"""A stage that is stopped, made shorter and continued, with its real trainer on a miniature model."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.artifacts import Artifact, ArtifactStore, BuildOutcome, build_stage, plan_fingerprint
from infra.errors import ConfigurationError
from infra.processes import ChildFailed
from model import GREEDY, generate, load
from tasks.training import (
    STAGE,
    Cut,
    TrainingStageConfig,
    carry_over,
    done_updates,
    shorten_curriculum,
    stop_at,
    trainer,
)
from tasks.training.job import TrainingJob
from tasks.training.loading import LoadedUpdate
from tests.infra.conftest import moto_bucket, moto_endpoint  # noqa: F401 (fixtures)
from tests.tasks.training.conftest import stage_config
from tests.tasks.training.test_stage import history, same_results, tensors

Train = Callable[..., BuildOutcome]
CONFIG = stage_config(tokens=20 * 256, micro_batch=8, checkpoint_every_fraction=0.2)


class OutOfMoney(Exception):
    """What the budget guard raises from the stage's report."""


def stop_at_update(step: int) -> Callable[..., None]:
    def report(fraction: float, message: str, metrics: Mapping[str, float] | None = None) -> None:
        if (metrics or {"step": 0})["step"] == step:
            raise OutOfMoney

    return report


def noting(steps: list[float]) -> Callable[..., None]:
    """A report that keeps the updates it is told of."""
    return lambda fraction, message, metrics=None: steps.extend([metrics["step"]] if metrics else [])


def no_picture(*figures: object) -> None:
    """Drawing takes as long as training these stages."""
    path = figures[-1]
    assert isinstance(path, Path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.fixture
def guarded(here: Callable[[TrainingJob], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer in this process, ended as `run_streaming` ends it when the report raises: SIGTERM, then the error."""

    def run(command: list[str], on_event: Callable[[dict[str, Any]], None], **ignored: Any) -> None:
        raised: list[BaseException] = []

        def emit(event: str, fields: Mapping[str, Any]) -> None:
            try:
                if not raised:
                    on_event({"event": event, **fields})
            except OutOfMoney as error:
                raised.append(error)
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(trainer, "emit", emit)
        code = here(TrainingJob.read(Path(command[-1])))
        if raised:
            raise raised[0]
        if code:
            raise ChildFailed(command, code, [])

    monkeypatch.setattr("tasks.training.supervision.run_streaming", run)
    monkeypatch.setattr("tasks.training.stage.plot_stage", no_picture)


@pytest.fixture
def stopped(guarded: None, train: Train, store: ArtifactStore, tokens: Artifact) -> Callable[[int], int]:
    """Train `CONFIG` until its checkpoint of an update; returns the updates that are kept."""

    def until(step: int) -> int:
        with pytest.raises(OutOfMoney):
            train(CONFIG, report=stop_at_update(step - 1))  # the trainer makes one more before it saves
        return done_updates(store, CONFIG, {"tokens": tokens.reference})

    return until


@pytest.fixture
def carry(store: ArtifactStore, tokens: Artifact) -> Callable[[TrainingStageConfig], bool]:
    return lambda shorter: carry_over(store, CONFIG, shorter, {"tokens": tokens.reference})


@pytest.fixture
def undisturbed(guarded: None, tokens: Artifact, tmp_path: Path) -> Artifact:
    elsewhere = ArtifactStore.open(str(tmp_path / "undisturbed"), tmp_path / "undisturbed-cache")
    return build_stage(STAGE, CONFIG, {"tokens": tokens}, elsewhere).artifact


def test_what_was_learnt_is_kept_and_the_rest_is_compressed(
    train: Train, stopped: Callable[[int], int], carry: Callable[..., bool], undisturbed: Artifact
) -> None:
    assert stopped(12) == 12
    (shorter,) = shorten_curriculum([CONFIG], {"first": 12}, 0.5, minimum_steps=1)
    assert shorter.cuts == (Cut(after_step=12, steps=16),)
    assert carry(shorter) and not carry(shorter)
    seen: list[float] = []
    artifact = train(shorter, report=noting(seen))
    found, full = history(artifact.artifact), history(undisturbed)
    assert seen == [13, 14, 15, 16], "nothing was trained again"
    assert found[:13] == full[:13], "the start, and twelve updates, bit for bit"
    assert [entry["batch"] for entry in found[1:]] == list(range(16)), "the data order goes on"
    assert found[13]["learning_rate"] < full[13]["learning_rate"]
    assert found[-1]["learning_rate"] == CONFIG.final_learning_rate
    assert found[-1]["step"] == 16 and "validation_loss" in found[-1]
    manifest = artifact.artifact.manifest
    assert manifest.statistics["steps"] == 16 and manifest.metrics["train/tokens"] == 16 * 256
    assert manifest.statistics["shortening"] == "shortened from 20 to 16 updates after update 12"
    assert manifest.tables["shortened"][0]["tokens before"] == 20 * 256


def test_a_shortened_stage_killed_and_shortened_again_is_one_history(
    train: Train, stopped: Callable[[int], int], carry: Callable[..., bool], store: ArtifactStore, tokens: Artifact
) -> None:
    assert stopped(8) == 8
    inputs = {"tokens": tokens.reference}
    (once,) = shorten_curriculum([CONFIG], {"first": 8}, 0.75, minimum_steps=1)
    assert carry(once)
    for step in (9, 11):  # stopped twice, and gone on with
        with pytest.raises(OutOfMoney):
            train(once, report=stop_at_update(step))
    assert done_updates(store, once, inputs) == 12
    whole = train_elsewhere(store, once, tokens)
    (twice,) = shorten_curriculum([once], {"first": 12}, 0.6, minimum_steps=1)
    assert twice.cuts == (Cut(after_step=8, steps=17), Cut(after_step=12, steps=15))
    assert carry_over(store, once, twice, inputs)
    again = train(twice).artifact
    assert history(again)[:13] == history(whole)[:13]
    assert same_results(again, train_elsewhere(store, twice, tokens)), "as if it had never been stopped"
    assert history(again)[-1]["learning_rate"] == CONFIG.final_learning_rate


def train_elsewhere(store: ArtifactStore, config: TrainingStageConfig, tokens: Artifact) -> Artifact:
    """The same stage from its first update on, in a store of its own."""
    root = Path(store.storage.uri()).parent / f"elsewhere-{len(config.cuts)}"
    return build_stage(STAGE, config, {"tokens": tokens}, ArtifactStore.open(str(root), root / "cache")).artifact


def test_stopping_keeps_a_model_that_answers(
    train: Train, stopped: Callable[[int], int], carry: Callable[..., bool], undisturbed: Artifact
) -> None:
    done = stopped(6)
    (kept,) = stop_at([CONFIG, stage_config(name="later")], {"first": done})
    assert kept.steps == kept.cuts[0].after_step == 6
    assert carry(kept)
    seen: list[float] = []
    artifact = train(kept, report=noting(seen)).artifact
    assert not seen, "not one update was made"
    assert history(artifact) == history(undisturbed)[:7]
    assert artifact.manifest.statistics["rows_drawn"] == {"first": 6 * CONFIG.rows_per_step}
    answer = generate(load(artifact.directory / "model"), [[1, 2, 3]], 5, GREEDY)
    assert len(answer[0]) == 5


def test_stopped_before_the_first_checkpoint_it_begins_anew_and_there_is_nothing_to_keep(
    guarded: None, train: Train, carry: Callable[..., bool], store: ArtifactStore, tokens: Artifact
) -> None:
    with pytest.raises(OutOfMoney):
        train(CONFIG, report=stop_at_update(0))
    assert done_updates(store, CONFIG, {"tokens": tokens.reference}) == 0
    (shorter,) = shorten_curriculum([CONFIG], {}, 0.5)
    assert shorter.cuts == (Cut(after_step=0, steps=10),)
    carry(shorter)
    assert [entry["step"] for entry in history(train(shorter).artifact)] == list(range(11))
    with pytest.raises(ConfigurationError, match="no model to keep"):
        stop_at([CONFIG], {"first": 0})


def test_stopped_after_the_last_update_there_is_nothing_to_shorten(
    train: Train, stopped: Callable[[int], int], undisturbed: Artifact, store: ArtifactStore, tokens: Artifact
) -> None:
    done = stopped(20)
    assert done == 20
    assert shorten_curriculum([CONFIG], {"first": done}, 0.1) == stop_at([CONFIG], {"first": done}) == [CONFIG]
    assert same_results(train(CONFIG).artifact, undisturbed)
    assert done_updates(store, CONFIG, {"tokens": tokens.reference}) == 20, "finished now"


def test_updates_made_beyond_a_cut_as_if_there_had_been_none_do_not_count(
    train: Train, stopped: Callable[[int], int], carry: Callable[..., bool], store: ArtifactStore, tokens: Artifact
) -> None:
    assert stopped(14) == 14
    shorter = CONFIG.model_copy(update={"cuts": (Cut(after_step=9, steps=13),)})
    assert carry(shorter)
    said: list[float] = []
    artifact = train(shorter, report=noting(said))
    assert said == list(range(int(said[0]), 14)) and said[0] <= 10, "from a checkpoint of update 9 or before"
    assert same_results(artifact.artifact, train_elsewhere(store, shorter, tokens))


def test_a_bad_batch_after_the_cut_is_left_out_as_ever(
    train: Train, stopped: Callable[[int], int], carry: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stopped(12) == 12
    (shorter,) = shorten_curriculum([CONFIG], {"first": 12}, 0.5, minimum_steps=1)
    accumulate = trainer.Trainer._accumulate

    def poisoned(self: trainer.Trainer, loaded: LoadedUpdate) -> torch.Tensor:
        return accumulate(self, loaded) * (float("nan") if loaded.batch == 13 else 1)

    monkeypatch.setattr(trainer.Trainer, "_accumulate", poisoned)
    carry(shorter)
    artifact = train(shorter).artifact
    assert [entry["batch"] for entry in history(artifact)[1:]] == [*range(13), 14, 15, 16]
    assert artifact.manifest.statistics["rows_drawn"] == {"first": 17 * CONFIG.rows_per_step}
    assert [entry["kind"] for entry in artifact.manifest.statistics["incidents"]] == ["loss is not a number"]


@pytest.mark.slow
def test_a_trainer_of_its_own_process_is_stopped_shortened_and_continued(
    train: Train, store: ArtifactStore, tokens: Artifact
) -> None:
    """As the pipeline runs it: the error from the report ends the child, which saves what it has made."""
    config = stage_config(tokens=400 * 256, checkpoint_every_fraction=1.0, validation_rows=0)
    inputs = {"tokens": tokens.reference}
    with pytest.raises(OutOfMoney):
        train(config, report=stop_at_update(5))
    done = done_updates(store, config, inputs)
    assert 5 <= done < 400
    (kept,) = stop_at([config], {"first": done})
    assert carry_over(store, config, kept, inputs)
    assert not (store.working_directory("checkpoint", plan_fingerprint(STAGE, config, inputs)) / ".scratch").exists()
    artifact = train(kept).artifact
    assert [entry["step"] for entry in history(artifact)] == list(range(1, done + 1))
    assert tensors(artifact)


def test_another_machine_goes_on_with_what_is_in_the_bucket(
    guarded: None,
    tokens: Artifact,
    store: ArtifactStore,
    moto_bucket: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    inputs, uri = {"tokens": tokens.reference}, f"s3://{moto_bucket}/artifacts"
    with pytest.raises(OutOfMoney):
        one = ArtifactStore.open(uri, tmp_path / "one")
        build_stage(STAGE, CONFIG, {"tokens": tokens}, one, report=stop_at_update(7))
    shutil.rmtree(tmp_path / "one")
    other = ArtifactStore.open(uri, tmp_path / "two")
    assert done_updates(other, CONFIG, inputs) == 8
    (shorter,) = shorten_curriculum([CONFIG], {"first": 8}, 0.5, minimum_steps=1)
    assert carry_over(other, CONFIG, shorter, inputs)
    seen: list[float] = []
    artifact = build_stage(STAGE, shorter, {"tokens": tokens}, other, report=noting(seen)).artifact
    assert seen == list(range(9, 15))
    assert same_results(artifact, train_elsewhere(store, shorter, tokens))
    assert not any("/.scratch/" in stored.key for stored in other.storage.list()), "nothing is left but the artifact"
