"""Reading price catalogs: the shipped `catalog.yaml`, or a user's own file of the same form in its place.

A file lists machines with their prices. Where it has no price of a variant (spot, reserved), a rule of the file may
derive one from the on-demand price; such offers say so (`derived`), with the rule as their source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.budget.catalog import GpuKind, Offer, PriceCatalog, ProviderRates, SpotPreemptions, Variant
from infra.errors import ConfigurationError

SHIPPED_CATALOG = Path(__file__).with_name("catalog.yaml")


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
