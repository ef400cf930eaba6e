"""Read a GGUF file of ours back into a `HybridLM`: every tensor dequantized to float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGUFReader, Keys, ReaderTensor
from gguf.quants import dequantize
from pydantic import ValidationError

from model.config import ModelConfig
from model.errors import CheckpointError
from model.exports.gguf.layout import (
    ARCHITECTURE,
    CONFIG_KEY,
    LOWER_BOUNDS_KEY,
    decay_name,
    tensor_places,
)
from model.exports.gguf.writer import cumulative_lower_bounds
from model.language_model import HybridLM

_DECAY_TOLERANCE = 1e-5


def load_gguf(path: Path | str) -> HybridLM:
    """The model of a GGUF file that `save_gguf` wrote, in float32 and evaluation mode.

    Raises CheckpointError for a file that is no GGUF, of another architecture, without our
    metadata, incomplete, or whose decays contradict its lower bounds.
    """
    path = Path(path)
    reader = _open(path)
    config = _read_config(reader, path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    # Built without memory: every parameter is replaced by a stored one.
    with torch.device("meta"):
        model = HybridLM(config)
    parameters: dict[str, torch.Tensor] = {}
    for place in tensor_places(config):
        values = _values(tensors, place.file_name, path)
        parameters[place.parameter] = values.unsqueeze(1) if place.is_convolution else values
    if "lower_bounds" in model.state_dict():
        parameters["lower_bounds"] = _read_lower_bounds(reader, tensors, config, path)
    if config.tie_embeddings and "lm_head.weight" in model.state_dict():
        parameters["lm_head.weight"] = parameters["embeddings.weight"]
    try:
        model.load_state_dict(parameters, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"'{path}' does not hold the model its metadata describes: {error}") from error
    model.tie()
    return model.requires_grad_().eval()


def read_tokenizer_json(path: Path | str) -> str | None:
    """The `tokenizer.json` stored in the file, or None."""
    field = _open(Path(path)).get_field(Keys.Tokenizer.HF_JSON)
    return None if field is None else str(field.contents())


def _open(path: Path) -> GGUFReader:
    try:
        return GGUFReader(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"no GGUF file at '{path}': export one with save_gguf") from error
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"'{path}' is not a readable GGUF file ({error}): export it again") from error


def _read_config(reader: GGUFReader, path: Path) -> ModelConfig:
    architecture = _text(reader, Keys.General.ARCHITECTURE)
    if architecture != ARCHITECTURE:
        raise CheckpointError(
            f"'{path}' has architecture '{architecture}'; this reader knows only '{ARCHITECTURE}': "
            "run it with llama.cpp instead"
        )
    text = _text(reader, CONFIG_KEY)
    if text is None:
        raise CheckpointError(
            f"'{path}' lacks the metadata '{CONFIG_KEY}': it was written by another tool; export it with save_gguf"
        )
    try:
        return ModelConfig.model_validate_json(text)
    except ValidationError as error:
        raise CheckpointError(f"metadata '{CONFIG_KEY}' of '{path}' is not a model configuration: {error}") from error


def _text(reader: GGUFReader, key: str) -> str | None:
    field = reader.get_field(key)
    return None if field is None else str(field.contents())


def _values(tensors: Mapping[str, ReaderTensor], name: str, path: Path) -> torch.Tensor:
    """A stored tensor in float32."""
    if name not in tensors:
        raise CheckpointError(f"'{path}' lacks tensor '{name}': export it again")
    tensor = tensors[name]
    values: npt.NDArray[np.float32] = np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)
    return torch.from_numpy(values)


def _read_lower_bounds(
    reader: GGUFReader, tensors: Mapping[str, ReaderTensor], config: ModelConfig, path: Path
) -> torch.Tensor:
    """The trained lower bounds; the decays llama.cpp uses must follow from them."""
    field = reader.get_field(LOWER_BOUNDS_KEY)
    if field is None:
        raise CheckpointError(f"'{path}' lacks the metadata '{LOWER_BOUNDS_KEY}': export it with save_gguf")
    bounds = np.array(field.contents(), np.float32).reshape(config.layer_count, config.width)
    cumulative = cumulative_lower_bounds(bounds)
    for index, kind in enumerate(config.mixer_kinds):
        if kind == "hgrn2":
            stored = _values(tensors, decay_name(index), path).numpy()
            if np.abs(stored - (1 - cumulative[index])).max() > _DECAY_TOLERANCE:
                raise CheckpointError(
                    f"tensor '{decay_name(index)}' of '{path}' contradicts metadata '{LOWER_BOUNDS_KEY}': "
                    "one of them was edited; export the file again"
                )
    return torch.from_numpy(bounds)
