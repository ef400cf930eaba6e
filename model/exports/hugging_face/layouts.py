"""The layouts we know, and which one fits a model."""

from __future__ import annotations

from model.config import ModelConfig
from model.errors import ConfigurationError
from model.exports.hugging_face.fla import FlaGatedDeltaNet, FlaHGRN2
from model.exports.hugging_face.granite import GraniteMoeHybrid
from model.exports.hugging_face.layout import Layout
from model.exports.hugging_face.qwen import Qwen35Text

LAYOUTS: dict[str, Layout] = {
    layout.model_type: layout for layout in (GraniteMoeHybrid(), FlaHGRN2(), FlaGatedDeltaNet(), Qwen35Text())
}


def fitting_layout(config: ModelConfig, model_type: str | None = None) -> Layout:
    """The layout of that name, else the one for the model's linear mixer, checked against the model.

    Raises ConfigurationError when no layout, or not the one asked for, gives the same results.
    """
    name = model_type or _usual_model_type(config)
    if name not in LAYOUTS:
        raise ConfigurationError(f"layout={name!r} is not a Hugging Face layout we know: choose {_known()}")
    LAYOUTS[name].check(config)
    return LAYOUTS[name]


def layout_of(model_type: object) -> Layout:
    """The layout of a file's `model_type`. Raises ConfigurationError for others."""
    if not isinstance(model_type, str) or model_type not in LAYOUTS:
        raise ConfigurationError(f"model_type is {model_type!r}, and this model can only be read from {_known()}")
    return LAYOUTS[model_type]


def _usual_model_type(config: ModelConfig) -> str:
    linear = sorted(set(config.mixer_kinds) - {"attention"})
    if len(linear) > 1:
        raise ConfigurationError(
            f"layer_kinds mixes {' and '.join(linear)}: every Hugging Face layout has one linear mixer; "
            "save our own checkpoint instead"
        )
    if config.query_key_norm and linear in ([], ["gated_deltanet"]):
        return Qwen35Text.model_type
    return {"gated_deltanet": "gated_deltanet", "hgrn2": "hgrn2"}.get("".join(linear), GraniteMoeHybrid.model_type)


def _known() -> str:
    return ", ".join(LAYOUTS)
