"""The registry: one version a bundle, gates before champions, and a way back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, Lock
from unittest.mock import patch

import pytest
from judged import FAILED, PASSED
from mlflow import MlflowClient
from mlflow.models import Model
from mlflow.pyfunc import PythonModelContext

from infra.artifacts import Artifact
from infra.errors import ConfigurationError, PipelineError
from tasks.registration.packaging import save_mlflow_model
from tasks.registration.pyfunc_model import TextModel
from tasks.registration.registry import ensure_registered, find_version, promote, rollback

Make = Callable[..., Artifact]


def test_registering_twice_makes_one_version(tracking: str, make_bundle: Make) -> None:
    bundle = make_bundle("1", [PASSED])
    first, second = (ensure_registered(bundle, tracking) for _ in range(2))
    assert first.created and not second.created
    assert first.version == second.version == "1"
    assert first.aliases == ["candidate", "champion"]
    assert find_version(tracking, "tiny", bundle.manifest.fingerprint) is not None
    assert find_version(tracking, "tiny", "unknown") is None


def test_tags_say_what_the_version_is(tracking: str, make_bundle: Make) -> None:
    bundle = make_bundle("1", [PASSED])
    ensure_registered(bundle, tracking)
    version = MlflowClient(tracking_uri=tracking).get_model_version("tiny", "1")
    assert version.tags["sam2.fingerprint"] == bundle.manifest.fingerprint
    assert version.tags["sam2.bits_per_byte"] == "2.4000" and version.tags["sam2.recall"] == "0.2500"
    assert version.tags["sam2.gates"] == "1 of 1 passed"
    assert bundle.manifest.inputs["checkpoint"] in version.tags["sam2.lineage"]
    assert version.tags["sam2.stored"] == "copy"


def test_a_missed_gate_keeps_the_champion(tracking: str, make_bundle: Make) -> None:
    good = ensure_registered(make_bundle("1", [PASSED]), tracking)
    bad = ensure_registered(make_bundle("3", [PASSED, FAILED]), tracking)
    assert bad.aliases == ["candidate"]
    assert "eval/bits_per_byte is 2.4" in bad.note and "not champion" in bad.note
    assert find_version(tracking, "tiny", make_bundle("1", [PASSED]).manifest.fingerprint).aliases == ["champion"]  # type: ignore[union-attr]
    with pytest.raises(PipelineError, match=r"may not become champion: eval/bits_per_byte is 2\.4"):
        promote(tracking, "tiny", bad.version)
    assert good.version != bad.version


def test_without_gates_nothing_becomes_champion(tracking: str, make_bundle: Make) -> None:
    registered = ensure_registered(make_bundle("4", []), tracking)
    assert registered.aliases == ["candidate"] and "No gate was judged." in registered.note


def test_rollback_returns_and_a_repeated_run_does_not_undo_it(tracking: str, make_bundle: Make) -> None:
    first, second = make_bundle("1", [PASSED]), make_bundle("5", [PASSED])
    ensure_registered(first, tracking)
    assert ensure_registered(second, tracking).is_champion
    assert rollback(tracking, "tiny").version == "1"
    repeated = ensure_registered(second, tracking)
    assert repeated.aliases == ["candidate"] and "rolled back" in repeated.note
    with pytest.raises(ConfigurationError, match="no champion before"):
        rollback(tracking, "tiny")
    assert promote(tracking, "tiny", "2").is_champion
    assert "rolled back" not in ensure_registered(second, tracking).note


def test_a_wiped_registry_is_filled_again(tracking: str, make_bundle: Make) -> None:
    bundle = make_bundle("1", [PASSED])
    ensure_registered(bundle, tracking)
    MlflowClient(tracking_uri=tracking).delete_registered_model("tiny")
    again = ensure_registered(bundle, tracking)
    assert again.created and again.is_champion


def test_wiped_files_of_a_version_are_stored_again(tracking: str, make_bundle: Make, tmp_path: Path) -> None:
    bundle = make_bundle("1", [PASSED])
    ensure_registered(bundle, tracking)
    shutil.rmtree(tmp_path / "files")
    assert not ensure_registered(bundle, tracking).created
    assert list((tmp_path / "files").rglob("MLmodel"))


def test_a_large_bundle_is_registered_by_address_and_verified(tracking: str, make_bundle: Make, tmp_path: Path) -> None:
    bundle = make_bundle("6", [PASSED], serve_format="int8")
    ensure_registered(bundle, tracking, copy_limit_bytes=1000)
    assert not list((tmp_path / "files").rglob("*.safetensors"))
    stored = next((tmp_path / "files").rglob("MLmodel")).parent
    configured = Model.load(str(stored)).flavors["python_function"]["config"]
    context = PythonModelContext(artifacts={}, model_config=configured)
    model = TextModel()
    model.load_context(context)
    assert len(model.predict(context, ["abc", "x"], {"maximum_new_tokens": 3})) == 2
    card = bundle.directory / "model_card.md"
    kept = card.read_text()
    card.write_text(kept + "changed")
    try:
        with pytest.raises(ValueError, match=r"model_card\.md.*is not the one that was registered"):
            TextModel().load_context(context)
    finally:
        card.write_text(kept)


def test_a_killed_run_that_left_the_promotion_undecided_is_continued(tracking: str, make_bundle: Make) -> None:
    ensure_registered(make_bundle("1", [PASSED]), tracking)
    bundle = make_bundle("5", [PASSED])
    with (
        patch("tasks.registration.registry.decide_promotion", side_effect=KeyboardInterrupt),
        suppress(KeyboardInterrupt),
    ):
        ensure_registered(bundle, tracking)
    assert not find_version(tracking, "tiny", bundle.manifest.fingerprint).is_champion  # type: ignore[union-attr]
    continued = ensure_registered(bundle, tracking)
    assert continued.is_champion and not continued.created


def test_runs_that_register_one_bundle_at_once_leave_one_version(tracking: str, make_bundle: Make) -> None:
    """Both look before either creates."""
    bundle = make_bundle("1", [PASSED])
    client = MlflowClient(tracking_uri=tracking)
    together, lock = Barrier(2, timeout=60), Lock()

    def save(artifact: Artifact, directory: Path, limit: float) -> None:
        together.wait()
        with lock:  # MLflow's saving is not for several threads; runs are processes
            save_mlflow_model(artifact, directory, limit)

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(ensure_registered, bundle, tracking, save=save) for _ in range(2)]
        registered = [run.result() for run in runs]
    assert [str(found.version) for found in client.search_model_versions("name = 'tiny'")] == [registered[0].version]
    assert registered[0].version == registered[1].version
    assert sorted(found.created for found in registered) == [False, True]
    assert ensure_registered(bundle, tracking).aliases == ["candidate", "champion"]
