"""Smaller weights for the same model.

Public surface: `save_int8` writes a model with int8 projections, `load_int8` runs one.
"""

from model.quantization.int8 import WEIGHTS_FILE, load_int8, save_int8

__all__ = ["WEIGHTS_FILE", "load_int8", "save_int8"]
