"""ONNX: a model as a graph of one token and a graph of a chunk, with explicit states.

Public surface: `save_onnx` writes both, `describe` reads what an export consists of.
"""

from model.exports.onnx.directory import METADATA_FILE, WEIGHTS_FILE, GraphDescription, OnnxDescription, describe
from model.exports.onnx.writer import save_onnx

__all__ = [
    "METADATA_FILE",
    "WEIGHTS_FILE",
    "GraphDescription",
    "OnnxDescription",
    "describe",
    "save_onnx",
]
