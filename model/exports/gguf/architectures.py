"""The GGUF architectures we write and read. Adding one: a module with a `Layout`, and its name here."""

from __future__ import annotations

from model.config import ModelConfig
from model.errors import ConfigurationError
from model.exports.gguf.granite_hybrid import GraniteHybridLayout
from model.exports.gguf.hgrn2 import HGRN2Layout
from model.exports.gguf.layout import Layout, require
from model.exports.gguf.qwen35 import Qwen35Layout

_ALL: tuple[Layout, ...] = (HGRN2Layout(), GraniteHybridLayout(), Qwen35Layout())
LAYOUTS = {layout.architecture: layout for layout in _ALL}


def layout_for(config: ModelConfig) -> Layout:
    """The architecture that holds this model. Raises ConfigurationError when none does."""
    recurrent = sorted(set(config.mixer_kinds) - {"attention"})
    for layout in LAYOUTS.values():
        if recurrent == [layout.recurrent_kind]:
            # llama.cpp's memory for hybrids aborts the process where no layer needs keys and values.
            require("attention" in config.mixer_kinds, layout.architecture, "layer_kinds must have an attention layer")
            layout.check(config)
            return layout
    found = " and ".join(recurrent) if recurrent else "no recurrent layer"
    known = ", ".join(f"{layout.recurrent_kind} ('{layout.architecture}')" for layout in LAYOUTS.values())
    raise ConfigurationError(
        f"layer_kinds has {found}; the GGUF architectures we write have attention and exactly one of {known}: "
        "export this model as safetensors"
    )
