"""Mixtures: weights become bytes to fetch, small sources are repeated up to a limit, mistakes are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from artifact_rows import document_rows
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from infra.artifacts import Artifact
from infra.errors import ConfigurationError
from tasks.download import DownloadConfig, resolve_sources
from tasks.download.mixture import MixtureConfig, plan_mixture, plan_rows, training_demand, with_mixture_targets
from tasks.download.sources import LocalFiles


def sources(*names: str, **fields: Any) -> list[LocalFiles]:
    return [LocalFiles(name=name, uri=f"/nowhere/{name}", **fields) for name in names]


def mixture(**fields: Any) -> MixtureConfig:
    return MixtureConfig(
        **{"tokens": 1000, "weights": {"a": 3, "b": 1}, "bytes_per_token": 4, "kept_share": 0.5} | fields
    )


def test_weights_become_shares_and_bytes() -> None:
    a, b = plan_mixture(sources("a", "b"), mixture())
    assert (a.share, a.training_tokens, a.unique_tokens, a.epochs, a.bytes_wanted) == (0.75, 750, 750, 1, 6000)
    assert (b.share, b.bytes_wanted) == (0.25, 2000)


def test_a_small_source_is_read_whole_and_repeated() -> None:
    _, b = plan_mixture(sources("a", "b"), mixture(available_tokens={"b": 250}))
    assert (b.unique_tokens, b.epochs, b.bytes_wanted, b.estimated_bytes) == (125, 2, None, 1000)


def test_a_source_too_small_for_its_weight_is_refused_with_the_figures() -> None:
    with pytest.raises(ConfigurationError, match=r"more than 4 times: 'b' has about 50 tokens for 250 \(5\.0 epochs\)"):
        plan_mixture(sources("a", "b"), mixture(available_tokens={"b": 100}))
    assert plan_mixture(sources("a", "b"), mixture(available_tokens={"b": 100}, maximum_epochs=5))[1].epochs == 5


def test_an_own_cap_counts_as_what_there_is() -> None:
    a, _ = plan_mixture([*sources("a", maximum_bytes=3000), *sources("b")], mixture())
    assert (a.unique_tokens, a.epochs, a.bytes_wanted) == (375, 2, 3000)


def test_kept_shares_may_differ_by_source() -> None:
    a, b = plan_mixture(sources("a", "b"), mixture(kept_shares={"b": 1.0}))
    assert (a.bytes_wanted, b.bytes_wanted) == (6000, 1000)


def test_what_is_left_of_the_sources_shares_the_whole() -> None:
    (a,) = plan_mixture(sources("a"), mixture())
    assert (a.share, a.training_tokens) == (1.0, 1000)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 100), min_size=1),
    st.integers(1_000, 10**12),
    st.floats(0.05, 1),
    st.floats(1, 8),
)
def test_targets_cover_the_budget_and_resolving_again_changes_nothing(
    weights: dict[str, float], tokens: int, kept: float, bytes_per_token: float
) -> None:
    chosen = MixtureConfig(tokens=tokens, weights=weights, kept_share=kept, bytes_per_token=bytes_per_token)
    capped = with_mixture_targets(sources(*weights), chosen)
    planned = plan_mixture(capped, chosen)
    assert sum(entry.training_tokens for entry in planned) == pytest.approx(tokens)
    for source in capped:
        assert source.maximum_bytes is not None
        owed = tokens * weights[source.name] / sum(weights.values())
        assert source.maximum_bytes * kept / bytes_per_token >= owed * (1 - 1e-9)
    assert with_mixture_targets(capped, chosen) == capped


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weights": {"a": 1, "b": 0}}, "must be above 0"),
        ({"available_tokens": {"c": 5}}, r"available_tokens names \['c'\]"),
        ({"notes": {"c": "gated"}}, r"notes names \['c'\]"),
        ({"kept_shares": {"a": 1.5}}, "not above 1"),
        ({"available_tokens": {"a": 0}}, "available_tokens must be above 0"),
        ({"maximum_epochs": 0.5}, "maximum_epochs"),
    ],
)
def test_mistakes_in_a_mixture_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        mixture(**fields)


def test_every_source_needs_a_weight_and_every_weight_a_source() -> None:
    with pytest.raises(ValidationError, match=r"differ in \['b', 'c'\]"):
        DownloadConfig(sources=sources("a", "c"), mixture=mixture())


def test_resolving_sets_the_targets_which_the_stage_obeys(tmp_path: Path, download: Callable[..., Artifact]) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(f'{{"text": "{name}{n:098}."}}' for n in range(200)))
    found = [{"name": name, "uri": f"{tmp_path}/{name}.jsonl"} for name in ("a", "b")]
    chosen = mixture(tokens=1500)
    config = DownloadConfig(sources=found, mixture=chosen)
    resolved = resolve_sources(config, tmp_path)
    assert [source.maximum_bytes for source in resolved.sources] == [9000, 3000]
    assert "mixture" not in resolved.identity()
    rows = document_rows(download(found, mixture=chosen.model_dump()))
    taken = {name: sum(len(row["text"]) for row in rows if row["source"] == name) for name in ("a", "b")}
    assert taken == {"a": 9000, "b": 3000}


def test_an_absent_optional_source_leaves_its_share_to_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    present = LocalFiles(name="a", uri=f"{tmp_path}/a.txt")
    (absent,) = sources("b", optional=True)
    resolved = resolve_sources(DownloadConfig(sources=[present, absent], mixture=mixture()), tmp_path)
    assert [source.maximum_bytes for source in resolved.sources] == [8000]


def test_the_table_ends_with_the_whole_and_shows_notes() -> None:
    rows = plan_rows(plan_mixture(sources("a", "b", licence="MIT"), mixture(notes={"a": "gated"})))
    assert [row["Source"] for row in rows] == ["a", "b", "all"]
    assert [row["Weight"] for row in rows] == ["75.0%", "25.0%", "100.0%"]
    assert [row["Note"] for row in rows] == ["gated; size not known", "size not known", ""]
    assert rows[0]["Licence"] == "MIT"


def test_demand_adds_up_over_stages() -> None:
    demand = training_demand([(100, {"a": 1}), (60, {"a": 1, "b": 2}), (50, None)])
    assert demand == {"a": 120, "b": 40}
