"""What formulas can ask of the price catalog."""

from __future__ import annotations

import pytest

from infra.budget import PriceCatalog, load_catalog
from tasks.audit.price_functions import PriceFunctions

ON_DEMAND = "aws p4d.24xlarge on-demand"


def _of(*usd_by_variant: tuple[str, float, bool]) -> PriceFunctions:
    """A catalog of one machine with eight A100 at 20 USD an hour, and variants: name, price, derived."""
    catalog = load_catalog()
    machine = catalog.offer(ON_DEMAND).model_copy(update={"usd_per_hour": 20.0})
    offers = [machine] + [
        machine.model_copy(update={"variant": variant, "usd_per_hour": usd, "derived": derived})
        for variant, usd, derived in usd_by_variant
    ]
    return PriceFunctions(catalog.model_copy(update={"offers": tuple(offers)}))


def test_the_catalogs_figures() -> None:
    functions = _of()
    assert functions.offer_usd(ON_DEMAND) == 20
    assert functions.offer_gpus(ON_DEMAND) == 8
    assert functions.offer_gpu_gb(ON_DEMAND) == 40
    assert functions.gpu_peak_flops("a100-80gb") == 312e12
    assert functions.gpu_bytes_per_second("a100-80gb") == pytest.approx(2.039e12)


def test_discounts_are_of_published_prices_alone() -> None:
    # Derived prices follow from the range that is to be checked.
    functions = _of(("spot", 8.0, False), ("reserved-1y", 14.0, False), ("reserved-3y", 9.0, False))
    assert (functions.spot_discounts().low, functions.spot_discounts().high) == (60, 60)
    assert functions.reserved_discounts().low == pytest.approx(30)
    assert functions.reserved_discounts().high == pytest.approx(55)
    with pytest.raises(ValueError, match="no published spot price"):
        _of(("spot", 8.0, True)).spot_discounts()


def test_spot_offers_are_counted_by_provider() -> None:
    functions = _of(("spot", 8.0, False))
    assert functions.spot_offers("aws") == 1
    assert functions.spot_offers("lambda") == 0


def test_inference_costs_what_the_price_says() -> None:
    alone, many = (_of().inference_usd("small", batch) for batch in (1, 32))
    assert many.high < alone.low
    catalog = load_catalog()
    dearer = catalog.offer(ON_DEMAND).model_copy(update={"usd_per_hour": 60.0})
    tripled = PriceFunctions(PriceCatalog.model_copy(catalog, update={"offers": (dearer,)}))
    assert tripled.inference_usd("small", 1).low == pytest.approx(3 * alone.low)


def test_an_unknown_gpu_is_named() -> None:
    with pytest.raises(ValueError, match="no GPU 'a200'"):
        _of().gpu_peak_flops("a200")
