"""Champions: what it takes, what stops a version, and two runs that want the alias at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Thread
from unittest.mock import patch

import pytest
from judged import FAILED, PASSED, answered
from mlflow import MlflowClient

from infra.artifacts import Artifact
from infra.errors import ArtifactCorrupted, ConfigurationError, LeaseLost, PipelineError
from tasks.registration import champion
from tasks.registration.evidence import items_of_version
from tasks.registration.promotion_lock import promotion_lock
from tasks.registration.registry import ensure_registered, promote, rollback
from tasks.registration.versions import get_version

Make = Callable[..., Artifact]


def tags(tracking: str, version: str) -> dict[str, str]:
    return dict(MlflowClient(tracking_uri=tracking).get_model_version("tiny", version).tags)


def champion_of(tracking: str) -> str:
    return str(MlflowClient(tracking_uri=tracking).get_model_version_by_alias("tiny", "champion").version)


def test_a_version_that_is_not_worse_becomes_champion(tracking: str, make_bundle: Make, tmp_path: Path) -> None:
    ensure_registered(make_bundle("a", [PASSED], answered(100)), tracking)
    better = ensure_registered(make_bundle("b", [PASSED], answered(130)), tracking)
    assert better.is_champion and "better in 1" in better.note
    found = tags(tracking, "2")
    assert found["sam2.compared_with"] == "1" and found["sam2.previous_champion"] == "1"
    assert found["sam2.comparison"].startswith("Against tiny version 1: better in 1, worse in 0")
    assert {path.name for path in (tmp_path / "files").rglob("comparison/*")} == {
        "comparison.html", "comparison.md", "comparison.json", "forest.png",
    }  # fmt: skip


@pytest.mark.parametrize("copy_limit_bytes", [512e6, 1000.0])
def test_a_version_that_is_worse_does_not(tracking: str, make_bundle: Make, copy_limit_bytes: float) -> None:
    """Also where the champion's bundle is registered by address."""
    ensure_registered(make_bundle("b", [PASSED], answered(130)), tracking, copy_limit_bytes=copy_limit_bytes)
    worse = ensure_registered(make_bundle("a", [PASSED], answered(100)), tracking)
    assert worse.aliases == ["candidate"] and champion_of(tracking) == "1"
    assert "It is not champion: it is worse than version 1." in worse.note
    assert "worse in piqa/accuracy -0.15" in tags(tracking, "2")["sam2.comparison"]
    with pytest.raises(PipelineError, match=r"may not become champion: worse in piqa/accuracy -0\.15"):
        promote(tracking, "tiny", "2")


def test_the_rule_of_gates_alone_compares_and_promotes(tracking: str, make_bundle: Make) -> None:
    ensure_registered(make_bundle("b", [PASSED], answered(130)), tracking)
    worse = ensure_registered(make_bundle("a", [PASSED], answered(100)), tracking, promotion="gates")
    assert worse.is_champion and "worse in piqa/accuracy" in worse.note


def test_gates_come_first(tracking: str, make_bundle: Make) -> None:
    ensure_registered(make_bundle("a", [PASSED], answered(100)), tracking)
    better = ensure_registered(make_bundle("c", [PASSED, FAILED], answered(150)), tracking)
    assert "It is not champion: not every gate passed." in better.note and "better in 1" in better.note


def test_a_champion_without_items_is_compared_with_nothing_and_that_is_said(tracking: str, make_bundle: Make) -> None:
    ensure_registered(make_bundle("1", [PASSED]), tracking)
    second = ensure_registered(make_bundle("a", [PASSED], answered(100)), tracking)
    assert second.is_champion
    assert "Not compared with tiny version 1: the bundle of tiny version 1 has no results item by item." in second.note


def test_a_champion_whose_items_cannot_be_read_stays(tracking: str, make_bundle: Make, tmp_path: Path) -> None:
    ensure_registered(make_bundle("a", [PASSED], answered(100)), tracking)
    (stored,) = (tmp_path / "files").rglob("items.parquet")
    stored.write_bytes(stored.read_bytes()[:-30])
    second = ensure_registered(make_bundle("b", [PASSED], answered(130)), tracking)
    assert not second.is_champion and "items.parquet' cannot be read" in second.note
    with pytest.raises(ArtifactCorrupted):
        client = MlflowClient(tracking_uri=tracking)
        items_of_version(client, get_version(client, "tiny", "champion"))


def test_a_bundle_by_address_that_changed_is_no_evidence(tracking: str, make_bundle: Make) -> None:
    bundle = make_bundle("d", [PASSED], answered(90))
    ensure_registered(bundle, tracking, copy_limit_bytes=1000)
    path = bundle.path("evaluation/items.parquet")
    kept = path.read_bytes()
    path.write_bytes(make_bundle("b", [PASSED], answered(130)).path("evaluation/items.parquet").read_bytes())
    try:
        second = ensure_registered(make_bundle("a", [PASSED], answered(100)), tracking)
    finally:
        path.write_bytes(kept)
    assert not second.is_champion and "is not the one that was registered" in second.note


def test_promotion_anyway_is_never_silent(tracking: str, make_bundle: Make) -> None:
    ensure_registered(make_bundle("a", [PASSED], answered(100)), tracking)
    ensure_registered(make_bundle("c", [PASSED, FAILED], answered(150)), tracking)
    with pytest.raises(ConfigurationError, match="needs a reason"):
        promote(tracking, "tiny", "2", anyway=True, reason="  ")
    assert champion_of(tracking) == "1"
    promoted = promote(tracking, "tiny", "2", anyway=True, reason="the demo needs it", by="ada@lab")
    assert promoted.is_champion
    found = tags(tracking, "2")
    assert found["sam2.promoted_anyway_by"] == "ada@lab" and found["sam2.promoted_anyway_reason"] == "the demo needs it"
    assert "eval/bits_per_byte is 2.4" in found["sam2.promoted_anyway"] and found["sam2.promoted_anyway_at"]
    assert "ada@lab made it champion" in promoted.note and "against the evidence" in promoted.note
    assert rollback(tracking, "tiny").version == "1"


def test_a_run_that_another_overtakes_compares_again(tracking: str, make_bundle: Make) -> None:
    """While version 3 is compared with version 1, version 2 becomes champion."""
    ensure_registered(make_bundle("a", [PASSED], answered(100)), tracking)
    with patch("tasks.registration.registry.decide_promotion"):
        ensure_registered(make_bundle("e", [PASSED], answered(180)), tracking)
    compared: list[str] = []
    gather = champion.gather

    def overtaken(client: MlflowClient, version: object, rival: object, *rest: object) -> champion.Evidence:
        compared.append(str(rival.version))  # type: ignore[attr-defined]
        evidence = gather(client, version, rival, *rest)  # type: ignore[arg-type]
        if compared == ["1"]:
            client.set_registered_model_alias("tiny", "champion", "2")
        return evidence

    with patch("tasks.registration.champion.gather", overtaken):
        third = ensure_registered(make_bundle("b", [PASSED], answered(130)), tracking)
    assert compared == ["1", "2"] and champion_of(tracking) == "2"
    assert "it is worse than version 2" in third.note and tags(tracking, "3")["sam2.compared_with"] == "2"


def test_an_older_version_takes_over_only_when_it_is_better(tracking: str, make_bundle: Make) -> None:
    """A run that registered first may decide last."""
    older, equal = (
        make_bundle("b", [PASSED], answered(130)),
        make_bundle("f", [PASSED], answered(130), serve_format="int8"),
    )
    with patch("tasks.registration.registry.decide_promotion"):
        ensure_registered(older, tracking)
    assert ensure_registered(equal, tracking).is_champion
    late = ensure_registered(older, tracking)
    assert not late.is_champion and "version 2, which is newer, is champion" in late.note


def test_only_one_holds_the_aliases(tracking: str, make_bundle: Make) -> None:
    client = MlflowClient(tracking_uri=tracking)
    client.create_registered_model("tiny")
    inside: list[int] = []
    together = Barrier(3)

    def hold(number: int) -> None:
        together.wait()
        with promotion_lock(MlflowClient(tracking_uri=tracking, registry_uri=tracking), "tiny"):
            inside.append(number)
            assert inside == [number]
            inside.remove(number)

    with ThreadPoolExecutor(3) as pool:
        for held in [pool.submit(hold, number) for number in range(3)]:
            held.result()
    assert not client.get_registered_model("tiny").tags


def test_a_dead_holder_is_replaced_and_a_stopped_one_notices(tracking: str) -> None:
    client = MlflowClient(tracking_uri=tracking, registry_uri=tracking)
    client.create_registered_model("tiny")
    taken, noticed = Event(), Event()

    def replace() -> None:
        with promotion_lock(MlflowClient(tracking_uri=tracking, registry_uri=tracking), "tiny", patience_seconds=0.2):
            taken.set()
            noticed.wait(60)

    with promotion_lock(client, "tiny") as check:
        check()
        other = Thread(target=replace)
        other.start()
        assert taken.wait(60)
        with pytest.raises(LeaseLost, match="another process took over the aliases of model 'tiny'"):
            check()
        noticed.set()
        other.join()


def test_an_unknown_version_names_those_there_are(tracking: str, make_bundle: Make) -> None:
    ensure_registered(make_bundle("1", [PASSED]), tracking)
    for which in ("7", "staging"):
        with pytest.raises(ConfigurationError, match=r"choose one of: 1, candidate, champion"):
            promote(tracking, "tiny", which)
    with pytest.raises(ConfigurationError, match="choose one of: models tiny"):
        rollback(tracking, "tinny")
