"""Dated prices of machines with GPUs, and of what is paid beside them.

`catalog.yaml` beside this file is the catalog that is shipped; a user's own file of the same form replaces it. Every
price says when and where it was found. Where no price of a variant (spot, reserved) was found, the file may derive one
from the on-demand price by a rule; such offers say so (`derived`), with the rule as their source.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.errors import ConfigurationError

SHIPPED_CATALOG = Path(__file__).with_name("catalog.yaml")
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
        return tuple(
            f"{len(offers)} prices of {day.isoformat()} ({', '.join(sorted({offer.provider for offer in offers}))}) are "
            f"{(today - day).days} days old; check them before you commit money."
            for day, offers in sorted(stale.items())
        )


def load_catalog(path: Path | None = None) -> PriceCatalog:
    """The shipped catalog, or the user's; raises ConfigurationError naming file, field and fix."""
    path = path or SHIPPED_CATALOG
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the price catalog '{path}': {error.strerror}.", "correct the path."
        ) from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"'{path.name}' is not valid YAML: {error}.", "correct that line.") from error
    return parse_catalog(content, path.name)


def parse_catalog(content: Any, file_name: str) -> PriceCatalog:
    """A catalog from a file's plain data; raises ConfigurationError listing every problem with its field."""
    try:
        file = _CatalogFile.model_validate(content)
        shared = file.model_dump(include={"as_of", "spot_preemptions", "gpus", "providers"})
        return PriceCatalog(**shared, offers=tuple(file.expand()))
    except ValidationError as error:
        problems = "; ".join(_problem(detail) for detail in error.errors())
        raise ConfigurationError(f"price catalog '{file_name}': {problems}.", "correct these fields.") from error


class _Price(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    variant: Variant = "on-demand"
    usd_per_hour: float = Field(gt=0)
    edition: str = ""
    as_of: date
    source: str = Field(min_length=1)


class _Instance(BaseModel):
    """A machine and its prices, as a file writes them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    provider: str
    instance: str
    gpu: str
    gpus: int = Field(ge=1)
    cpu_memory_gb: float | None = Field(None, gt=0)
    network_gigabits_per_second: float | None = Field(None, gt=0)
    prices: tuple[_Price, ...] = Field(min_length=1)


class _Rule(BaseModel):
    """How a variant's price follows from the on-demand price where no price of its own is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    variant: Variant
    providers: tuple[str, ...] = Field(min_length=1)
    discount: float = Field(gt=0, lt=1, description="share taken off")
    source: str = Field(min_length=1)


class _CatalogFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    as_of: date
    spot_preemptions: SpotPreemptions
    gpus: dict[str, GpuKind]
    providers: dict[str, ProviderRates]
    instances: tuple[_Instance, ...] = Field(min_length=1)
    derived: tuple[_Rule, ...] = ()

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for instance in self.instances:
            if instance.gpu not in self.gpus:
                known = ", ".join(sorted(self.gpus))
                raise ValueError(f"instance '{instance.instance}' has gpu '{instance.gpu}', not one of `gpus`: {known}")
        unknown = {name for rule in self.derived for name in rule.providers} - set(self.providers)
        if unknown:
            raise ValueError(f"`derived` names providers {sorted(unknown)}, which are not in `providers`; correct them")
        return self

    def expand(self) -> Iterator[Offer]:
        """Every price as an offer, and after each machine's the derived ones."""
        for instance in self.instances:
            published = {(price.variant, price.edition) for price in instance.prices}
            yield from (self._offer(instance, price) for price in instance.prices)
            for price in instance.prices:
                if price.variant != "on-demand":
                    continue
                for rule in self.derived:
                    if instance.provider in rule.providers and (rule.variant, price.edition) not in published:
                        yield self._derived(instance, price, rule)

    def _offer(self, instance: _Instance, price: _Price) -> Offer:
        kind = self.gpus[instance.gpu]
        return Offer(
            **instance.model_dump(exclude={"prices"}), **price.model_dump(),
            gpu_memory_gb=kind.memory_gb,
            peak_bf16_teraflops=kind.peak_bf16_teraflops, peak_fp32_teraflops=kind.peak_fp32_teraflops,
            memory_bandwidth_gb_per_second=kind.memory_bandwidth_gb_per_second, default_mfu=kind.default_mfu,
            preemptions_per_hour=self._preemptions(price.variant),
        )  # fmt: skip

    def _derived(self, instance: _Instance, price: _Price, rule: _Rule) -> Offer:
        published = self._offer(instance, price)
        return published.model_copy(
            update={
                "variant": rule.variant,
                "usd_per_hour": round(price.usd_per_hour * (1 - rule.discount), 4),
                "preemptions_per_hour": self._preemptions(rule.variant),
                "derived": True,
                "source": f"{rule.discount:.0%} below {price.usd_per_hour:g} USD on demand: {rule.source}",
            }
        )

    def _preemptions(self, variant: Variant) -> float:
        return self.spot_preemptions.per_hour if variant == "spot" else 0.0


def _problem(detail: Mapping[str, Any]) -> str:
    path = ".".join(str(part) for part in detail["loc"]) or "the file"
    if detail["type"] == "extra_forbidden":
        return f"'{path}' is not a known field"
    return f"{path}: {detail['msg'].removeprefix('Value error, ')}"
