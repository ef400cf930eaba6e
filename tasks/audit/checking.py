"""The audit itself: every claim recomputed and judged."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from infra.budget import PriceCatalog, load_catalog
from tasks.audit.chances import Chances
from tasks.audit.claims import Claim, Document, Quantity, load_documents, load_quantities
from tasks.audit.engineering import FUNCTIONS, STATISTICS
from tasks.audit.expressions import Formulas
from tasks.audit.price_functions import PriceFunctions
from tasks.audit.rows import Audit, Row, UsedQuantity
from tasks.audit.spans import Number, Span
from tasks.audit.verdicts import Kind, Verdict, distance, judge

_ARITHMETIC, _DOCUMENTS, _MODEL, _CATALOG, _SIMULATION = "arithmetic", "documents", "model", "catalog", "simulation"
#: Wall-clock hours of the 5.5B model's stages on eight A100, which the risks are simulated with.
_STAGE_HOURS = {
    f"stage-{number}": f"stage_{number}_flops / (8 * a100_flops * good_utilisation) / 3600" for number in (1, 2, 3)
}


def run_audit(
    documents: tuple[Document, ...] | None = None,
    quantities: Mapping[str, Quantity] | None = None,
    catalog: PriceCatalog | None = None,
) -> Audit:
    """Check every claim; the shipped data and prices where nothing else is given.

    Raises ConfigurationError for a formula that cannot be computed, naming it.
    """
    checker = _Checker(
        load_documents() if documents is None else documents,
        load_quantities() if quantities is None else quantities,
        load_catalog() if catalog is None else catalog,
    )
    return checker.audit()


@dataclass(frozen=True)
class _Resolved:
    """A formula's value, with everything that quantities in it bring along."""

    value: Span
    rests_on: frozenset[str]
    names: frozenset[str]
    claims: frozenset[str] = frozenset()  # whose stated figures went into it


class _Checker:
    def __init__(
        self, documents: tuple[Document, ...], quantities: Mapping[str, Quantity], catalog: PriceCatalog
    ) -> None:
        self._documents = documents
        self._prices_as_of = catalog.as_of
        self._quantities = quantities
        self._claims = {
            f"{document.document}.{claim.id}": claim
            for document in documents
            for section in document.sections
            for claim in section.claims
        }
        chances = Chances(self._stage_hours, catalog.spot_preemptions.per_hour)
        self._rests_on_of_function: dict[str, tuple[str, ...]] = (
            dict.fromkeys(STATISTICS, ())
            | dict.fromkeys(PriceFunctions(catalog).by_name(), (_CATALOG,))
            | {
                "stated": (_DOCUMENTS,),
                "inference_usd": (_CATALOG, _MODEL),
                "chance_percent": (_SIMULATION, "assumption"),
            }
        )
        self._functions: dict[str, Callable[..., Number]] = {
            **FUNCTIONS,
            **PriceFunctions(catalog).by_name(),
            "stated": self.stated,
            "chance_percent": chances.chance_percent,
        }
        self._resolved: dict[str, _Resolved] = {}
        self._open: set[str] = set()  # quantities on the way
        self._formulas = Formulas(lambda name: _plain(self._quantity(name).value), self._functions)

    def stated(self, name: str) -> Span:
        """What another claim states, by document and id"""
        if name not in self._claims:
            raise ValueError(f"no claim '{name}'")
        return self._claims[name].stated.amount

    def audit(self) -> Audit:
        rows = tuple(
            self._row(document.document, section.section, claim)
            for document in self._documents
            for section in document.sections
            for claim in section.claims
        )
        used = {name for row in rows if row.claim.formula for name in self._resolve(row.claim.formula).names}
        used |= {name for row in rows if row.claim.usd_per_unit for name in self._resolve(row.claim.usd_per_unit).names}
        return Audit(
            documents=self._documents,
            rows=rows,
            quantities=tuple(
                UsedQuantity(quantity, self._quantity(name).value)
                for name, quantity in self._quantities.items()
                if name in used
            ),
            functions={
                name: " ".join((function.__doc__ or "").split())
                for name, function in self._functions.items()
                if name in used
            },
            prices_as_of=self._prices_as_of,
        )

    def _row(self, document: str, section: str, claim: Claim) -> Row:
        if claim.formula is None:
            return Row(document, section, claim, Verdict(Kind.NOT_CHECKABLE))
        resolved = self._resolve(claim.formula)
        against = tuple(sorted(resolved.claims)) if resolved.rests_on == {_DOCUMENTS} else ()
        verdict = judge(claim.stated, resolved.value, tolerance=claim.tolerance, against=against)
        return Row(
            document,
            section,
            claim,
            verdict,
            resolved.value,
            tuple(sorted(resolved.rests_on)) or (_ARITHMETIC,),
            self._effect_usd(claim, resolved.value, verdict),
        )

    def _effect_usd(self, claim: Claim, recomputed: Span, verdict: Verdict) -> float | None:
        """What the difference is worth; for ranges the nearest ends, so that it is never exaggerated."""
        if verdict.kind not in (Kind.WRONG, Kind.INCONSISTENT):
            return None
        if claim.usd_per_unit:
            return distance(claim.stated, recomputed) * self._resolve(claim.usd_per_unit).value.low
        return distance(claim.stated, recomputed) if claim.unit == "USD" else None

    def _quantity(self, name: str) -> _Resolved:
        quantity = self._quantities[name]
        if quantity.formula is None:
            assert quantity.value is not None
            own: tuple[str, ...] = () if quantity.basis == "definition" else (quantity.basis,)
            return _Resolved(Span(quantity.value, quantity.value), frozenset(own), frozenset({name}))
        if name in self._open:
            raise ValueError(f"'{name}' follows from itself")
        self._open.add(name)
        inner = self._resolve(quantity.formula)
        self._open.discard(name)
        rests_on = inner.rests_on if quantity.basis == "derived" else inner.rests_on | {quantity.basis}
        return _Resolved(inner.value, rests_on, inner.names | {name}, inner.claims)

    def _resolve(self, formula: str) -> _Resolved:
        if formula not in self._resolved:
            evaluated = self._formulas.evaluate(formula)
            rests_on: set[str] = set()
            names: set[str] = set(evaluated.names)
            claims = _stated_claims(formula)
            for name in evaluated.names:
                if name in self._quantities:
                    quantity = self._quantity(name)
                    rests_on |= quantity.rests_on
                    names |= quantity.names
                    claims |= quantity.claims
                else:
                    rests_on |= set(self._rests_on_of_function.get(name, (_MODEL,)))
            self._resolved[formula] = _Resolved(
                evaluated.value, frozenset(rests_on), frozenset(names), frozenset(claims)
            )
        return self._resolved[formula]

    def _stage_hours(self) -> dict[str, float]:
        return {stage: self._resolve(formula).value.low for stage, formula in _STAGE_HOURS.items()}


def _plain(value: Span) -> Number:
    """A span of one number as that number, which functions want."""
    return value.low if value.is_point else value


def _stated_claims(formula: str) -> set[str]:
    """The claims that a formula itself takes figures from."""
    calls = (node for node in ast.walk(ast.parse(formula, mode="eval")) if isinstance(node, ast.Call))
    return {
        str(call.args[0].value)
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "stated" and isinstance(call.args[0], ast.Constant)
    }
