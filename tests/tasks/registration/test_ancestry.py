"""The walk back from a model: what is intact, rebuilt, damaged or missing is told so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from judged import PASSED, answered
from mlflow import MlflowClient

from infra.artifacts import Artifact, ArtifactStore
from infra.errors import ConfigurationError
from infra.storage.checksum import checksum_file
from tasks.registration.ancestry import State, recomputed_fingerprint
from tasks.registration.lineage_target import Found, find_lineage
from tasks.registration.registry import ensure_registered

Make = Callable[..., Artifact]


@pytest.fixture
def root(store: ArtifactStore, make_bundle: Make, tmp_path: Path) -> Path:
    """A copy of the whole store, to damage."""
    make_bundle("a", [PASSED], answered(100))
    shutil.copytree(Path(store.storage.uri()), tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def bundle(make_bundle: Make) -> Artifact:
    return make_bundle("a", [PASSED], answered(100))


def walk(root: Path, bundle: Artifact) -> Found:
    return find_lineage(
        bundle.reference[: len("registration/") + 12], [str(root)], lambda: pytest.fail("not asked for")
    )


def states(found: Found) -> dict[str, State]:
    return {one.reference.partition("/")[0]: one.state for one in found.ancestry.ancestors.values()}


def test_an_intact_chain_reaches_the_sources(root: Path, bundle: Artifact) -> None:
    found = walk(root, bundle)
    assert set(states(found).values()) == {State.INTACT} and len(states(found)) == 6
    assert found.ancestry.root == bundle.reference
    raw = next(one for one in found.ancestry.ancestors.values() if one.reference.startswith("raw_documents/"))
    assert raw.sources == [
        {"name": "docs", "uri": "pypi://docs==1", "licence": "MIT", "revision": "sha256:0bd5", "documents": 120,
         "bytes": 34567}
    ]  # fmt: skip
    told = json.loads(json.dumps(found.as_json()))
    assert told["counts"] == {"intact": 6, "rebuilt": 0, "damaged": 0, "missing": 0}
    assert {one["artifact"].partition("/")[0]: one.get("usd") for one in told["artifacts"]}["tokens"] == 0.01


def test_fingerprints_follow_from_what_stages_were_asked(bundle: Artifact) -> None:
    """Also for an artifact that `build_stage` made."""
    assert recomputed_fingerprint(bundle.manifest) == bundle.manifest.fingerprint


@pytest.mark.parametrize(("kind", "file"), [("tokens", "tokenizer.json"), ("registration", "model/model.safetensors")])
def test_a_changed_file_is_named(root: Path, bundle: Artifact, kind: str, file: str) -> None:
    (path,) = root.glob(f"{kind}/*/{file}") if kind == "tokens" else [root / bundle.reference / file]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = walk(root, bundle)
    (damaged,) = found.ancestry.in_state(State.DAMAGED)
    assert damaged.reference.startswith(kind) and damaged.problem == f"file '{file}' does not match its checksum"
    assert states(found)["raw_documents"] is State.INTACT  # the walk goes on


def test_a_changed_manifest_is_noticed(root: Path, bundle: Artifact) -> None:
    (path,) = root.glob("raw_documents/*/manifest.json")
    path.write_text(
        path.read_text().replace('"licence": "MIT"', '"licence": "none"').replace("sha256:0bd5", "sha256:1")
    )
    (damaged,) = walk(root, bundle).ancestry.in_state(State.DAMAGED)
    assert "do not give its fingerprint" in damaged.problem
    path.write_text("{")
    (damaged,) = walk(root, bundle).ancestry.in_state(State.DAMAGED)
    assert "its manifest cannot be read" in damaged.problem


def test_a_rebuilt_ancestor_is_not_taken_for_the_recorded_one(root: Path, bundle: Artifact) -> None:
    """Whole, but with other files than those the bundle was made from."""
    (path,) = root.glob("raw_documents/*/manifest.json")
    manifest = json.loads(path.read_text())
    (path.parent / "more.txt").write_text("more")
    entry = {"path": "more.txt", "size_bytes": 4, "checksum": checksum_file(path.parent / "more.txt")}
    path.write_text(json.dumps({**manifest, "files": [entry]}))
    assert states(walk(root, bundle))["raw_documents"] is State.CHANGED


def test_a_missing_ancestor_is_named_with_what_the_bundle_keeps_of_it(root: Path, bundle: Artifact) -> None:
    shutil.rmtree(root / "raw_documents")
    shutil.rmtree(root / "tokens")
    found = walk(root, bundle)
    missing = {one.reference.partition("/")[0]: one for one in found.ancestry.in_state(State.MISSING)}
    assert set(missing) == {"raw_documents", "tokens"}
    assert missing["raw_documents"].sources[0]["uri"] == "pypi://docs==1"
    (root / bundle.reference / "lineage.json").unlink()
    assert walk(root, bundle).ancestry.in_state(State.DAMAGED)[0].problem == "file 'lineage.json' is missing"


def test_a_directory_is_checked_itself(root: Path, bundle: Artifact, tmp_path: Path) -> None:
    """A good bundle elsewhere does not hide that this copy is damaged."""
    shutil.copytree(root / bundle.reference, tmp_path / "alone")
    good = find_lineage(str(tmp_path / "alone"), [str(root)], str)
    assert set(states(good).values()) == {State.INTACT}
    (tmp_path / "alone" / "tokenizer.json").write_text("{}")
    assert states(find_lineage(str(tmp_path / "alone"), [str(root)], str))["registration"] is State.DAMAGED


@pytest.fixture
def hidden_store(store: ArtifactStore, bundle: Artifact) -> Iterator[None]:
    """The bundle is no longer where it was registered from."""
    moved = bundle.directory.with_name("moved-away")
    bundle.directory.rename(moved)
    yield
    moved.rename(bundle.directory)


@pytest.mark.parametrize("what", ["tiny@champion", "tiny/1", "models:/tiny@candidate", "models:/tiny/1"])
def test_a_registered_version_leads_to_its_sources(tracking: str, bundle: Artifact, what: str) -> None:
    ensure_registered(bundle, tracking)
    found = find_lineage(what, [], lambda: tracking)
    assert found.title == "tiny version 1" and found.facts["aliases"] == "candidate, champion"
    assert set(states(found).values()) == {State.INTACT} and "raw_documents" in states(found)


def test_the_registrys_copy_stands_in_for_a_bundle_that_is_gone(
    tracking: str, bundle: Artifact, request: pytest.FixtureRequest
) -> None:
    ensure_registered(bundle, tracking)
    request.getfixturevalue("hidden_store")
    found = find_lineage("tiny@champion", [], lambda: tracking)
    version = MlflowClient(tracking_uri=tracking).get_model_version("tiny", "1")
    assert states(found)["registration"] is State.INTACT
    assert found.ancestry.ancestors[bundle.reference].place == version.source


def test_a_bundle_by_address_that_is_gone_is_missing_and_its_inputs_are_not(
    tracking: str, bundle: Artifact, request: pytest.FixtureRequest
) -> None:
    ensure_registered(bundle, tracking, copy_limit_bytes=1000)
    request.getfixturevalue("hidden_store")
    found = find_lineage("tiny@champion", [], lambda: tracking)
    assert states(found)["registration"] is State.MISSING
    assert states(found)["raw_documents"] is State.INTACT


@pytest.mark.parametrize("what", ["nothing here", "tokens/00000000", "registration/zz"])
def test_what_names_nothing_is_refused_with_the_forms_there_are(root: Path, what: str) -> None:
    with pytest.raises(ConfigurationError, match=r"names no (model|single artifact)"):
        find_lineage(what, [str(root)], str)
