"""Int4 weights, a scale and a middle for every 32: a directory with `config.json` and `model-int4.safetensors`.

The head, whose errors go straight into the logits, and layers whose shape the int4 kernel cannot take have int8 rows.
"""

from __future__ import annotations

from pathlib import Path

from model.language_model import HybridLM
from model.quantization.directory import load_quantized, save_quantized
from model.quantization.weights import Int4Groups, Int8Rows, Quantized

INT4_WEIGHTS_FILE = "model-int4.safetensors"
_HEAD = "lm_head"


def save_int4(model: HybridLM, directory: str | Path) -> None:
    """Write `model` to `directory` with int4 weights; a file appears whole or not at all."""
    save_quantized(model, directory, INT4_WEIGHTS_FILE, _form, "int4 groups of 32")


def load_int4(directory: str | Path) -> HybridLM:
    """A model on the CPU whose quantized projections compute from int4, in evaluation mode; it cannot be trained.

    Raises CheckpointError when the files are missing, damaged, or do not fit the configuration.
    """
    return load_quantized(directory, INT4_WEIGHTS_FILE, _form, "save_int4")


def _form(name: str, shape: tuple[int, int]) -> type[Quantized]:
    return Int4Groups if name != _HEAD and Int4Groups.fits(shape) else Int8Rows
