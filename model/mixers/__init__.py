"""The token mixers a layer can have, by name.

Adding one: a module with a `Mixer` subclass (its configuration check, its forward, its sizes), and a line here.
"""

from __future__ import annotations

from model.mixers.attention import Attention
from model.mixers.gated_deltanet import GatedDeltaNet
from model.mixers.hgrn2 import HGRN2
from model.mixers.interface import Mixer
from model.mixers.mamba2 import Mamba2

MIXERS: dict[str, type[Mixer]] = {
    "attention": Attention,
    "gated_deltanet": GatedDeltaNet,
    "hgrn2": HGRN2,
    "mamba2": Mamba2,
}

__all__ = ["HGRN2", "MIXERS", "Attention", "GatedDeltaNet", "Mamba2", "Mixer"]
