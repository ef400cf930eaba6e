"""Overrides: partial models, dotted assignments, and one clear message for every mistake."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.overrides import explain_validation, merge, parse_assignments, partial_model
from infra.errors import ConfigurationError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    learning_rate: float = Field(0.1, gt=0, description="step size")
    names: list[str] = Field(default_factory=list, description="names")


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    seed: int = Field(description="the seed")
    inner: Inner = Field(Inner(), description="nested")


def test_partial_model_takes_any_subset_and_nothing_else() -> None:
    partial = partial_model(Outer)
    given_fields = partial.model_validate({"inner": {"learning_rate": 0.5}})
    assert given_fields.model_dump(exclude_unset=True) == {"inner": {"learning_rate": 0.5}}
    assert partial.model_validate({}).model_dump(exclude_unset=True) == {}
    with pytest.raises(ValidationError):
        partial.model_validate({"inner": {"learning_rat": 0.5}})
    assert partial.model_fields["seed"].description == "the seed"
    assert "default: 0.1" in (partial_model(Inner).model_fields["learning_rate"].description or "")


def test_assignments_nest_and_are_typed() -> None:
    assert parse_assignments(["a.b=1", "a.c=[1, 2]", "d=text", "a.e=null"]) == {
        "a": {"b": 1, "c": [1, 2], "e": None},
        "d": "text",
    }
    with pytest.raises(ConfigurationError, match=r"field\.path=value"):
        parse_assignments(["nothing"])


json_trees = st.recursive(
    st.integers() | st.text(), lambda inner: st.dictionaries(st.text(min_size=1), inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(st.text(min_size=1), json_trees), st.dictionaries(st.text(min_size=1), json_trees))
def test_merge_keeps_the_base_and_obeys_the_changes(base: dict, changes: dict) -> None:
    merged = merge(base, changes)
    assert set(merged) == set(base) | set(changes)
    assert merge(merged, changes) == merged
    assert merge(base, {}) == base


def explain(content: dict) -> str:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(content)
    return str(explain_validation(caught.value, "profile x.yaml", Outer))


def test_unknown_key_is_named_with_the_nearest_known_one() -> None:
    message = explain({"seed": 1, "inner": {"learning_rte": 1}})
    assert "unknown key 'inner.learning_rte'" in message
    assert "did you mean 'learning_rate'" in message
    assert "profile x.yaml" in message


def test_every_problem_is_in_one_message() -> None:
    message = explain({"inner": {"learning_rate": -1}, "zzz": 3})
    assert "'seed'" in message
    assert "'inner.learning_rate'" in message
    assert "unknown key 'zzz' (known: inner, seed)" in message
