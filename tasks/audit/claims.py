"""The founding documents' claims, and the quantities they are checked with: the form of the files in `data`."""

from __future__ import annotations

from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.errors import ConfigurationError
from tasks.audit.figures import Figure, Sense, parse_figure
from tasks.audit.spans import Span

DATA_DIRECTORY = Path(__file__).with_name("data")

Basis = Literal["definition", "published", "measured", "profiles", "assumption", "derived"]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quantity(_Data):
    """A named number that formulas use."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    value: float | None = Field(None, description="the number itself, or")
    formula: str | None = Field(None, description="what it follows from")
    unit: str
    basis: Basis
    meaning: str = Field(min_length=1)
    source: str = Field("", description="where it is from, with its date")
    quote: str | None = Field(None, description="the figure as `file` has it")
    file: str | None = Field(None, description="file of this repository that a measured figure stands in")

    @model_validator(mode="after")
    def _is_founded(self) -> Self:
        if (self.value is None) == (self.formula is None):
            raise ValueError(f"quantity '{self.name}' needs either a value or a formula")
        if self.basis in ("published", "assumption") and not self.source:
            raise ValueError(f"quantity '{self.name}' needs a source (for an assumption: why it is reasonable)")
        if self.basis in ("measured", "profiles") and not (self.file and self.quote):
            raise ValueError(f"quantity '{self.name}' needs the file and the quote it rests on")
        return self


class Claim(_Data):
    """One claimed figure and how it is checked: by a formula, or not at all, with the reason."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    claim: str = Field(min_length=1, description="what is claimed, in our words")
    figure: str = Field(min_length=1, description="exactly as it stands in the section")
    value: float | None = Field(None, description="the figure's amount, where its text does not begin with it")
    unit: str = ""
    formula: str | None = None
    tolerance: float | None = Field(None, ge=0, description="what still counts as rounding, relative")
    sense: Sense | None = Field(None, description="how the figure is meant, where its text does not say so")
    note: str = ""
    reason: str = Field("", description="why it cannot be checked")
    would_check: str = Field("", description="what would check it")
    topic: str = Field("", description="claims that rest on the same mistake share a topic")
    usd_per_unit: str = Field("", description="formula: what one unit of the figure costs, where it is not USD")

    @model_validator(mode="after")
    def _is_checked_or_explained(self) -> Self:
        if (self.formula is None) == (not self.reason):
            raise ValueError(f"claim '{self.id}' needs either a formula or a reason why there is none")
        if self.reason and not self.would_check:
            raise ValueError(f"claim '{self.id}': say in would_check what would check it")
        if self.formula is not None:
            _ = self.stated  # raises for a figure without a number
        return self

    @property
    def stated(self) -> Figure:
        """The figure as numbers."""
        if self.value is None:
            parsed = parse_figure(self.figure)
        else:
            parsed = Figure(Span(self.value, self.value), 0.0, False, Sense.EQUAL)
        if self.sense is None:
            return parsed
        return Figure(parsed.amount, parsed.half_digit, parsed.is_approximate, self.sense)


class Section(_Data):
    """A section of a document, by its heading."""

    section: str
    claims: tuple[Claim, ...] = Field(min_length=1)


class LeftOut(_Data):
    """Lines with numbers that are no claims, by what stands in them."""

    reason: str
    lines: tuple[str, ...] = Field(min_length=1)


class Document(_Data):
    """A founding document's claims."""

    document: str = Field(pattern=r"^\d{3}$")
    title: str
    file: str = Field(description="its file among the founding documents")
    dated: str = Field(description="the date it bears")
    sections: tuple[Section, ...]
    left_out: tuple[LeftOut, ...] = ()

    @model_validator(mode="after")
    def _identifiers_are_unique(self) -> Self:
        names = [claim.id for section in self.sections for claim in section.claims]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"claims {twice} are there twice; give each an id of its own")
        return self


class _Quantities(_Data):
    checked_on: date
    quantities: tuple[Quantity, ...]


_Model = TypeVar("_Model", bound=BaseModel)


@cache
def load_documents() -> tuple[Document, ...]:
    """All founding documents, in order; raises ConfigurationError naming file, field and fix."""
    return tuple(_read(path, Document) for path in sorted(DATA_DIRECTORY.glob("[0-9]*.yaml")))


def published_checked_on() -> date:
    """The day the published quantities were looked up."""
    return _quantities_file().checked_on


@cache
def load_quantities() -> dict[str, Quantity]:
    """The quantities by name."""
    found = _quantities_file().quantities
    by_name = {quantity.name: quantity for quantity in found}
    if len(by_name) < len(found):
        raise ConfigurationError("quantities.yaml names a quantity twice.", "rename or remove one.")
    return by_name


@cache
def _quantities_file() -> _Quantities:
    return _read(DATA_DIRECTORY / "quantities.yaml", _Quantities)


def _read(path: Path, kind: type[_Model]) -> _Model:
    # The C parser where it was built: the same results, twenty times sooner.
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return kind.model_validate(yaml.load(path.read_text(), Loader=loader))  # noqa: S506 - both are safe loaders
    except yaml.YAMLError as error:
        raise ConfigurationError(f"'{path.name}' is not valid YAML: {error}.", "correct that line.") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, detail['loc']))}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors()
        )
        raise ConfigurationError(f"'{path.name}': {problems}.", "correct these fields.") from error
