"""Dated prices of machines with GPUs, and of what is paid beside them. Every price says when and where it was found."""

from __future__ import annotations

import difflib
from datetime import date, timedelta
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.errors import ConfigurationError

#: Older prices are shown with a warning.
STALE_AFTER = timedelta(days=180)

Variant = Literal["on-demand", "spot", "reserved-1y", "reserved-3y"]


class GpuKind(BaseModel):
    """A GPU as its data sheet has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    title: str = Field(description="as shown in tables")
    memory_gb: float = Field(gt=0, description="10^9 bytes that tensors may take: what the data sheet calls GB")
    peak_bf16_teraflops: float = Field(gt=0, description="dense, without structured sparsity")
    peak_fp32_teraflops: float = Field(gt=0, description="of plain float32, without TF32")
    memory_bandwidth_gb_per_second: float = Field(gt=0, description="10^9 bytes a second")
    default_mfu: float = Field(gt=0, le=1, description="model FLOPs utilisation to expect where none was measured")
    mfu_source: str = Field(min_length=1, description="what `default_mfu` rests on")
    source: str = Field(min_length=1, description="where the other figures are from")


class ProviderRates(BaseModel):
    """What a provider takes beside its machines."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    storage_usd_per_gb_month: float = Field(ge=0, description="object storage, or what stands in for it")
    egress_usd_per_gb: float = Field(ge=0, description="from the provider to the internet")
    cpu_core_usd_per_hour: float = Field(ge=0, description="one virtual core without GPU, for preparing data")
    as_of: date = Field(description="day the rates were found")
    source: str = Field(min_length=1, description="where the rates are from")


class SpotPreemptions(BaseModel):
    """How often a spot instance is taken away."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    per_hour: float = Field(ge=0, description="of one instance")
    source: str = Field(min_length=1, description="what the rate rests on")


class Offer(BaseModel):
    """One kind of machine at one price. All prices are for the whole instance."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    provider: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="aws, gcp, azure, lambda, ...")
    instance: str = Field(min_length=1, description="the provider's name of the machine")
    gpu: str = Field(description="kind of GPU, a key of the catalog's `gpus`")
    gpus: int = Field(ge=1, description="GPUs of one instance")
    gpu_memory_gb: float = Field(gt=0, description="10^9 bytes of one GPU that tensors may take")
    variant: Variant = Field(description="how it is bought")
    usd_per_hour: float = Field(ge=0, description="of the whole instance")
    peak_bf16_teraflops: float = Field(gt=0, description="dense, one GPU")
    peak_fp32_teraflops: float | None = Field(None, gt=0, description="plain float32, one GPU; None: not known")
    memory_bandwidth_gb_per_second: float = Field(gt=0, description="of one GPU, 10^9 bytes a second")
    cpu_memory_gb: float | None = Field(None, gt=0, description="of the whole instance; None: not known")
    network_gigabits_per_second: float | None = Field(
        None, gt=0, description="of the whole instance to the others; None: not known, or not connected"
    )
    default_mfu: float = Field(0.4, gt=0, le=1, description="of this kind of GPU, where none was measured")
    preemptions_per_hour: float = Field(0.0, ge=0, description="of one spot instance, an assumption; 0 otherwise")
    edition: str = Field("", description="told apart from today's price of the same machine: `founding`; else empty")
    derived: bool = Field(False, description="the price follows from another by a rule; nobody published it")
    as_of: date = Field(description="day of the price")
    source: str = Field(min_length=1, description="where the price is from, or the rule")

    @property
    def name(self) -> str:
        """Provider, instance, variant and edition: what tables show, unique in a catalog."""
        return f"{self.provider} {self.instance} {self.variant}" + (f" [{self.edition}]" if self.edition else "")

    @property
    def usd_per_gpu_hour(self) -> float:
        """Price of one GPU."""
        return self.usd_per_hour / self.gpus


class PriceCatalog(BaseModel):
    """All offers, and the rates of their providers."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    as_of: date = Field(description="day the catalog was put together")
    spot_preemptions: SpotPreemptions
    gpus: dict[str, GpuKind] = Field(description="kinds of GPU, by the key that offers name")
    providers: dict[str, ProviderRates] = Field(description="rates beside the machines, by provider")
    offers: tuple[Offer, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _offers_are_told_apart(self) -> Self:
        names = [offer.name for offer in self.offers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"offers {twice} are there twice; remove one of each")
        unknown = sorted({offer.provider for offer in self.offers} - set(self.providers))
        if unknown:
            raise ValueError(f"providers {unknown} have offers but no rates; add them to `providers`")
        return self

    def rates(self, provider: str) -> ProviderRates:
        """What `provider` takes for storage, transfer and cores; raises ConfigurationError for an unknown one."""
        if provider not in self.providers:
            raise ConfigurationError(
                f"the price catalog has no rates of provider '{provider}'.",
                f"add it to `providers`; known: {', '.join(sorted(self.providers))}.",
            )
        return self.providers[provider]

    def offer(self, name: str) -> Offer:
        """The offer of this name; raises ConfigurationError, with near names, when there is none."""
        by_name = {offer.name: offer for offer in self.offers}
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of: {', '.join(sorted(by_name))}."
            raise ConfigurationError(f"the price catalog has no offer '{name}'.", hint)
        return by_name[name]

    def warnings(self, today: date) -> tuple[str, ...]:
        """What to know before relying on the prices: those older than 180 days, by day."""
        stale: dict[date, list[Offer]] = {}
        for offer in self.offers:
            if today - offer.as_of > STALE_AFTER:
                stale.setdefault(offer.as_of, []).append(offer)
        return tuple(_stale_warning(day, offers, today) for day, offers in sorted(stale.items()))


def _stale_warning(day: date, offers: list[Offer], today: date) -> str:
    providers = ", ".join(dict.fromkeys(offer.provider for offer in offers))
    return (
        f"{len(offers)} prices of {day.isoformat()} ({providers}) are {(today - day).days} days old; "
        "check them before you commit money."
    )
