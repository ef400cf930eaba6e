"""The token mixers a layer can have, by name.

Adding one: a module with a `Mixer` subclass (its configuration check, its forward, its sizes), and a line here.
"""

from __future__ import annotations

from model.mixers.attention import Attention
from model.mixers.hgrn2 import HGRN2
from model.mixers.interface import Mixer

MIXERS: dict[str, type[Mixer]] = {"attention": Attention, "hgrn2": HGRN2}

__all__ = ["HGRN2", "MIXERS", "Attention", "Mixer"]
