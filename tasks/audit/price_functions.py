"""What formulas can ask of the price catalog."""

from __future__ import annotations

from collections.abc import Callable

from infra.budget import GpuKind, Offer, PriceCatalog, Variant
from model import preset
from tasks.audit.spans import Number, Span, hull
from tasks.planning import inference_cost


class PriceFunctions:
    """Functions over one catalog; those that raise name the catalog's entry and the fix."""

    def __init__(self, catalog: PriceCatalog) -> None:
        self._catalog = catalog

    def by_name(self) -> dict[str, Callable[..., Number]]:
        """By the name that formulas use."""
        functions = (
            self.offer_usd, self.offer_gpus, self.offer_gpu_gb, self.gpu_peak_flops, self.gpu_bytes_per_second,
            self.core_usd, self.storage_usd, self.egress_usd, self.spot_offers, self.spot_discounts,
            self.reserved_discounts, self.inference_usd,
        )  # fmt: skip
        return {function.__name__: function for function in functions}

    def offer_usd(self, name: str) -> float:
        """USD for an hour of an offer of the price catalog (the whole instance)"""
        return self._catalog.offer(name).usd_per_hour

    def offer_gpus(self, name: str) -> float:
        """GPUs of an offer's instance"""
        return self._catalog.offer(name).gpus

    def offer_gpu_gb(self, name: str) -> float:
        """GB of memory of each of them"""
        return self._catalog.offer(name).gpu_memory_gb

    def gpu_peak_flops(self, kind: str) -> float:
        """Dense bf16 FLOP/s of a kind of GPU, by its data sheet"""
        return self._gpu(kind).peak_bf16_teraflops * 1e12

    def gpu_bytes_per_second(self, kind: str) -> float:
        """Memory bandwidth of a kind of GPU, by its data sheet"""
        return self._gpu(kind).memory_bandwidth_gb_per_second * 1e9

    def core_usd(self, provider: str) -> float:
        """USD for an hour of one processor core at a provider"""
        return self._catalog.rates(provider).cpu_core_usd_per_hour

    def storage_usd(self, provider: str) -> float:
        """USD for a GB of object storage and a month"""
        return self._catalog.rates(provider).storage_usd_per_gb_month

    def egress_usd(self, provider: str) -> float:
        """USD for a GB that leaves the provider"""
        return self._catalog.rates(provider).egress_usd_per_gb

    def spot_offers(self, provider: str) -> float:
        """Spot offers of a provider in the catalog"""
        return sum(offer.provider == provider and offer.variant == "spot" for offer in self._catalog.offers)

    def spot_discounts(self) -> Span:
        """Percent below the on-demand price, all published spot prices of machines with A100"""
        return self._discounts(("spot",))

    def reserved_discounts(self) -> Span:
        """Percent below the on-demand price, all published prices of reserved machines with A100"""
        return self._discounts(("reserved-1y", "reserved-3y"))

    def inference_usd(self, name: str, batch: float) -> Span:
        """USD for a million tokens that a preset generates for so many sequences of 2,048 tokens at once, by the
        planner's model of inference, at all on-demand prices of machines with A100, the documents' own among them
        """
        offers = [offer for offer in self._catalog.offers if offer.gpu.startswith("a100")]
        costs = [
            inference_cost(preset(name), offer, batch=int(batch)).decode_usd_per_million_tokens
            for offer in offers
            if offer.variant == "on-demand"
        ]
        if not costs:
            raise ValueError("the price catalog has no on-demand price of an A100")
        return hull(*costs)

    def _gpu(self, kind: str) -> GpuKind:
        if kind not in self._catalog.gpus:
            raise ValueError(f"the price catalog has no GPU '{kind}'")
        return self._catalog.gpus[kind]

    def _discounts(self, variants: tuple[Variant, ...]) -> Span:
        """Derived prices are left out: they follow from the founding documents' own ranges."""
        published = [offer for offer in self._catalog.offers if not offer.derived and offer.gpu.startswith("a100")]
        on_demand = {_machine(offer): offer.usd_per_hour for offer in published if offer.variant == "on-demand"}
        found = [
            100 * (1 - offer.usd_per_hour / on_demand[_machine(offer)])
            for offer in published
            if offer.variant in variants and _machine(offer) in on_demand
        ]
        if not found:
            raise ValueError(f"the price catalog has no published {' or '.join(variants)} price of an A100")
        return hull(*found)


def _machine(offer: Offer) -> tuple[str, str, str]:
    return offer.provider, offer.instance, offer.edition
