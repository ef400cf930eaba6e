"""The price catalog: what is shipped, what a user's own file may say, and what is refused."""

from __future__ import annotations

from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.budget import PriceCatalog, load_catalog
from infra.budget.catalog_file import SHIPPED_CATALOG, parse_catalog
from infra.errors import ConfigurationError

SHIPPED = load_catalog()

OWN: dict[str, Any] = {
    "as_of": date(2026, 11, 1),
    "spot_preemptions": {"per_hour": 0.1, "source": "a test"},
    "gpus": {
        "big": {
            "title": "Big", "memory_gb": 100, "peak_bf16_teraflops": 500, "peak_fp32_teraflops": 50,
            "memory_bandwidth_gb_per_second": 3000, "default_mfu": 0.4, "mfu_source": "a test", "source": "a test",
        },
    },
    "providers": {
        "own": {
            "storage_usd_per_gb_month": 0.01, "egress_usd_per_gb": 0.0, "cpu_core_usd_per_hour": 0.05,
            "as_of": date(2026, 11, 1), "source": "a test",
        },
    },
    "instances": [
        {
            "provider": "own", "instance": "box", "gpu": "big", "gpus": 4,
            "prices": [{"usd_per_hour": 10.0, "as_of": date(2026, 11, 1), "source": "a test"}],
        },
    ],
    "derived": [{"variant": "spot", "providers": ["own"], "discount": 0.5, "source": "half"}],
}  # fmt: skip


def changed(path: str, value: Any) -> dict[str, Any]:
    """OWN with one field, at a path like `gpus.big.memory_gb`, set."""
    content = deepcopy(OWN)
    *parents, last = path.split(".")
    place: Any = content
    for part in parents:
        place = place[int(part) if part.isdigit() else part]
    place[last] = value
    return content


def test_the_founding_prices_are_there_as_they_were_written() -> None:
    founding = {offer.name: offer.usd_per_hour for offer in SHIPPED.offers if offer.edition and not offer.derived}
    assert founding == {
        "aws p4d.24xlarge on-demand [founding]": 32.77,
        "gcp a2-megagpu-16g on-demand [founding]": 30.0,
        "azure ND96amsr_A100_v4 on-demand [founding]": 27.2,
        "lambda 8x A100 on-demand [founding]": 12.0,
    }
    assert SHIPPED.offer("aws p4d.24xlarge on-demand [founding]").gpu_memory_gb == 40
    assert SHIPPED.offer("gcp a2-megagpu-16g on-demand [founding]").gpus == 16


def test_three_weeks_of_the_founding_machine() -> None:
    assert SHIPPED.offer("lambda 8x A100 on-demand [founding]").usd_per_hour * 504 == pytest.approx(6048)


def test_every_offer_says_when_and_where_its_price_was_found() -> None:
    assert all(offer.source and offer.as_of <= SHIPPED.as_of for offer in SHIPPED.offers)
    assert all(offer.as_of >= date(2025, 1, 1) for offer in SHIPPED.offers)


def test_variants_follow_the_rules_and_only_derived_ones_do() -> None:
    discounts = {"spot": 0.6, "reserved-1y": 0.3, "reserved-3y": 0.5}
    derived = [offer for offer in SHIPPED.offers if offer.derived]
    assert derived
    for offer in derived:
        edition = f" [{offer.edition}]" if offer.edition else ""
        published = SHIPPED.offer(f"{offer.provider} {offer.instance} on-demand{edition}")
        assert offer.usd_per_hour == pytest.approx(published.usd_per_hour * (1 - discounts[offer.variant]), abs=1e-4)
        assert "range" in offer.source
    assert not any(offer.derived for offer in SHIPPED.offers if offer.variant == "on-demand")


def test_only_spot_is_taken_away_and_lambda_has_none() -> None:
    for offer in SHIPPED.offers:
        assert (offer.preemptions_per_hour > 0) == (offer.variant == "spot")
    assert {offer.variant for offer in SHIPPED.offers if offer.provider == "lambda"} == {"on-demand"}


def test_a_published_price_keeps_the_rule_away() -> None:
    spot = SHIPPED.offer("gcp a2-megagpu-16g spot")
    assert not spot.derived
    assert spot.usd_per_hour == pytest.approx(19.48024)


def test_old_prices_are_told_and_new_ones_are_not() -> None:
    catalog = parse_catalog(OWN, "own.yaml")
    assert catalog.warnings(date(2027, 4, 30)) == ()
    (warning,) = catalog.warnings(date(2027, 5, 1))
    assert "2026-11-01" in warning
    assert "181 days old" in warning


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(OWN))
    catalog = load_catalog(path)
    assert [offer.name for offer in catalog.offers] == ["own box on-demand", "own box spot"]
    spot = catalog.offer("own box spot")
    assert (spot.usd_per_hour, spot.preemptions_per_hour, spot.derived) == (5.0, 0.1, True)
    assert spot.usd_per_gpu_hour == 1.25


def test_json_and_back() -> None:
    assert PriceCatalog.model_validate_json(SHIPPED.model_dump_json()) == SHIPPED


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("gpus.big.colour", "green", "'gpus.big.colour' is not a known field"),
        ("instances.0.prices.0.usd", 3, "'instances.0.prices.0.usd' is not a known field"),
        ("instances.0.prices.0.usd_per_hour", -1, "instances.0.prices.0.usd_per_hour"),
        ("instances.0.gpu", "small", "instance 'box' has gpu 'small', not one of `gpus`: big"),
        ("instances.0.provider", "other", "providers ['other'] have offers but no rates"),
        ("instances.0.prices.0.source", "", "instances.0.prices.0.source"),
        ("derived.0.providers", ["nobody"], "`derived` names providers ['nobody']"),
        ("derived.0.discount", 1.5, "derived.0.discount"),
        ("providers.own.as_of", "yesterday", "providers.own.as_of"),
    ],
)
def test_a_wrong_file_is_refused_by_file_and_field(path: str, value: Any, told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_catalog(changed(path, value), "own.yaml")
    assert "own.yaml" in str(refused.value)
    assert told in str(refused.value)


def test_the_same_offer_twice_is_refused() -> None:
    content = deepcopy(OWN)
    content["instances"] *= 2
    with pytest.raises(ConfigurationError, match="are there twice"):
        parse_catalog(content, "own.yaml")


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*nowhere\.yaml"):
        load_catalog(tmp_path / "nowhere.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("offers: [")
    with pytest.raises(ConfigurationError, match=r"broken\.yaml' is not valid YAML"):
        load_catalog(broken)
    broken.write_text("- 1")
    with pytest.raises(ConfigurationError, match=r"broken\.yaml"):
        load_catalog(broken)


def test_an_unknown_offer_or_provider_is_answered_with_near_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"aws p4de\.24xlarge spot"):
        SHIPPED.offer("aws p4de.24xlarge spott")
    with pytest.raises(ConfigurationError, match="aws, azure, gcp, lambda"):
        SHIPPED.rates("oracle")


def test_the_shipped_file_is_where_the_package_expects_it() -> None:
    assert SHIPPED_CATALOG.name == "catalog.yaml"
    assert SHIPPED_CATALOG.exists()
