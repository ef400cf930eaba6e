"""Smaller weights for the same model.

Public surface: `save_int8` and `save_int4` write a model with quantized projections, `load_int8` and `load_int4`
run one.
"""

from model.quantization.int4 import INT4_WEIGHTS_FILE, load_int4, save_int4
from model.quantization.int8 import INT8_WEIGHTS_FILE, load_int8, save_int8

__all__ = [
    "INT4_WEIGHTS_FILE",
    "INT8_WEIGHTS_FILE",
    "load_int4",
    "load_int8",
    "save_int4",
    "save_int8",
]
