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
from torch import Tensor

from model.config import ModelConfig
from model.errors import CheckpointError
from model.exports.gguf.architectures import LAYOUTS
from model.exports.gguf.layout import CONFIG_KEY, Derivation, Layout
from model.language_model import HybridLM

#: Between a stored derived tensor and what its original gives, relative to the larger of them and one.
_DERIVED_TOLERANCE = 1e-5


def load_gguf(path: Path | str) -> HybridLM:
    """The model of a GGUF file that `save_gguf` wrote, in float32 and evaluation mode.

    Raises CheckpointError for a file that is no GGUF, of an architecture we do not write, without our
    metadata, incomplete, or whose derived tensors contradict the parameters they were derived from.
    """
    path = Path(path)
    reader = _open(path)
    layout = _layout(reader, path)
    config = _read_config(reader, path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    # Built without memory: every parameter is replaced by a stored one.
    with torch.device("meta"):
        model = HybridLM(config)
    parameters: dict[str, Tensor] = {}
    for place in layout.placements(config):
        parameters |= place.unpack(_values(tensors, place.name, path))
    expected = model.state_dict()
    for derivation in layout.derivations(config):
        parameters[derivation.parameter] = _read_original(
            reader, tensors, derivation, expected[derivation.parameter].shape, path
        )
    if config.tie_embeddings and "lm_head.weight" in expected:
        parameters["lm_head.weight"] = parameters["embeddings.weight"]
    try:
        model.load_state_dict(parameters, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"'{path}' does not hold the model its metadata describes: {error}") from error
    model.tie()
    return model.requires_grad_().eval()


def read_tokenizer_json(path: Path | str) -> str | None:
    """The `tokenizer.json` stored in the file, or None."""
    return _text(_open(Path(path)), Keys.Tokenizer.HF_JSON)


def read_architecture(path: Path | str) -> str:
    """The file's `general.architecture`. Raises CheckpointError when it is no GGUF file."""
    path = Path(path)
    architecture = _text(_open(path), Keys.General.ARCHITECTURE)
    if architecture is None:
        raise CheckpointError(f"'{path}' names no architecture: it is not a model; export one with save_gguf")
    return architecture


def read_config(path: Path | str) -> ModelConfig | None:
    """The model configuration in a file of ours; None in a file of another tool."""
    path = Path(path)
    reader = _open(path)
    return None if _text(reader, CONFIG_KEY) is None else _read_config(reader, path)


def _open(path: Path) -> GGUFReader:
    try:
        return GGUFReader(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"no GGUF file at '{path}': export one with save_gguf") from error
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"'{path}' is not a readable GGUF file ({error}): export it again") from error


def _layout(reader: GGUFReader, path: Path) -> Layout:
    architecture = _text(reader, Keys.General.ARCHITECTURE)
    if architecture not in LAYOUTS:
        known = ", ".join(f"'{name}'" for name in LAYOUTS)
        raise CheckpointError(
            f"'{path}' has architecture '{architecture}'; this reader knows {known}: run it with llama.cpp instead"
        )
    return LAYOUTS[architecture]


def _read_config(reader: GGUFReader, path: Path) -> ModelConfig:
    text = _text(reader, CONFIG_KEY)
    if text is None:
        raise CheckpointError(
            f"'{path}' lacks the metadata '{CONFIG_KEY}': it was written by another tool; "
            "run it with llama.cpp, or export it with save_gguf"
        )
    try:
        return ModelConfig.model_validate_json(text)
    except ValidationError as error:
        raise CheckpointError(f"metadata '{CONFIG_KEY}' of '{path}' is not a model configuration: {error}") from error


def _text(reader: GGUFReader, key: str) -> str | None:
    field = reader.get_field(key)
    return None if field is None else str(field.contents())


def _values(tensors: Mapping[str, ReaderTensor], name: str, path: Path) -> Tensor:
    """A stored tensor in float32."""
    if name not in tensors:
        raise CheckpointError(f"'{path}' lacks tensor '{name}': export it again")
    tensor = tensors[name]
    values: npt.NDArray[np.float32] = np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)
    return torch.from_numpy(values)


def _read_original(
    reader: GGUFReader, tensors: Mapping[str, ReaderTensor], derivation: Derivation, shape: torch.Size, path: Path
) -> Tensor:
    """A parameter kept in the metadata; the tensors llama.cpp uses must follow from it."""
    field = reader.get_field(derivation.key)
    if field is None:
        raise CheckpointError(f"'{path}' lacks the metadata '{derivation.key}': export it with save_gguf")
    values = torch.tensor(field.contents(), dtype=torch.float32)
    if values.numel() != shape.numel():
        raise CheckpointError(
            f"metadata '{derivation.key}' of '{path}' has {values.numel()} values, not {shape.numel()}: export it again"
        )
    original = values.reshape(shape)
    for name, derived in derivation.derive(original).items():
        stored = _values(tensors, name, path)
        if not torch.allclose(stored, derived, rtol=_DERIVED_TOLERANCE, atol=_DERIVED_TOLERANCE):
            raise CheckpointError(
                f"tensor '{name}' of '{path}' contradicts metadata '{derivation.key}': "
                "one of them was edited; export the file again"
            )
    return original
