"""Int8 weights, one scale a row: a directory with `config.json` and `model-int8.safetensors`."""

from __future__ import annotations

from pathlib import Path

from model.language_model import HybridLM
from model.quantization.directory import load_quantized, save_quantized
from model.quantization.weights import Int8Rows

INT8_WEIGHTS_FILE = "model-int8.safetensors"


def save_int8(model: HybridLM, directory: str | Path) -> None:
    """Write `model` to `directory` with int8 weights; a file appears whole or not at all."""
    save_quantized(model, directory, INT8_WEIGHTS_FILE, _form, "int8 rows")


def load_int8(directory: str | Path) -> HybridLM:
    """A model on the CPU whose quantized projections compute in int8, in evaluation mode; it cannot be trained.

    Raises CheckpointError when the files are missing, damaged, or do not fit the configuration.
    """
    return load_quantized(directory, INT8_WEIGHTS_FILE, _form, "save_int8")


def _form(name: str, shape: tuple[int, int]) -> type[Int8Rows]:
    return Int8Rows
