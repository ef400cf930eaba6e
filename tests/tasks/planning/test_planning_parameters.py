"""Parameters from the built model, against the formulas of `model.sizing`, for every preset."""

from __future__ import annotations

import pytest

from model import PRESETS
from model.mixers import MIXERS
from model.sizing import parameter_count
from tasks.planning import count_parameters


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_formula_equals_the_built_model_component_by_component(name: str) -> None:
    config = PRESETS[name]
    built, formula = count_parameters(config), parameter_count(config)
    assert built.total == formula.total
    assert built.embedding == formula.embedding
    assert sum(built.mixers.values()) == formula.mixers
    assert built.feed_forward == formula.feed_forward
    assert built.norms == formula.norms
    assert built.lower_bounds == formula.lower_bounds
    assert built.head == formula.head


def test_mixers_are_told_apart_by_kind() -> None:
    config = PRESETS["sam2-5.5b"]
    for kind, parameters in count_parameters(config).mixers.items():
        assert parameters == config.mixer_kinds.count(kind) * MIXERS[kind].parameter_count(config)


def test_a_tied_head_is_counted_once() -> None:
    tied, free = PRESETS["large"], PRESETS["large"].model_copy(update={"tie_embeddings": False})
    assert count_parameters(tied).head == 0
    assert count_parameters(free).total - count_parameters(tied).total == tied.vocabulary_size * tied.width
