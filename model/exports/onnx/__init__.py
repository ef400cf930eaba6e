"""ONNX: a model as a graph of one token and a graph of a chunk, with explicit states.

Public surface: `save_onnx` writes both, `save_onnx_int8` quantizes an export, `describe` reads what one consists of.
"""

from model.exports.onnx.directory import METADATA_FILE, WEIGHTS_FILE, GraphDescription, OnnxDescription, describe
from model.exports.onnx.int8 import save_onnx_int8
from model.exports.onnx.writer import save_onnx

__all__ = [
    "METADATA_FILE",
    "WEIGHTS_FILE",
    "GraphDescription",
    "OnnxDescription",
    "describe",
    "save_onnx",
    "save_onnx_int8",
]
