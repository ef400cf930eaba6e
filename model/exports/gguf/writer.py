"""Write a hybrid as GGUF: F32, F16, Q8_0 or Q4_K_M, with its tokenizer.

The architecture follows from the model's layers (`architectures.py`). Tensors are converted and
written one at a time, so the memory taken beside the model is that of its largest tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter
from gguf.quants import quant_shape_to_byte_shape
from torch import Tensor

from model.config import ModelConfig
from model.exports.gguf.architectures import layout_for
from model.exports.gguf.ggml import quantize
from model.exports.gguf.layout import CONFIG_KEY, RUNTIME_KEY, Layout
from model.exports.gguf.mix import GGUFFormat, choose_types
from model.exports.gguf.vocabulary import add_tokenizer, add_vocabulary_size
from model.language_model import HybridLM

_NUMPY_TYPES: dict[GGMLQuantizationType, np.dtype[np.generic]] = {
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
}


def save_gguf(
    model: HybridLM,
    path: Path,
    file_format: GGUFFormat | str,
    *,
    tokenizer: Path | None = None,
    end_of_text: int | None = None,
    name: str = "sam2",
    threads: int | None = None,
) -> dict[str, GGMLQuantizationType]:
    """Write `model` to `path`, all or nothing, and return every tensor's storage type.

    tokenizer: a `tokenizer.json` of a byte-level BPE; without one the file serves token ids only.
    end_of_text: the token that ends every document, and opens one.
    Raises ConfigurationError for a model no architecture can hold, for rows that do not fit
    the format's blocks (naming the tensor) and for a tokenizer llama.cpp has no name for.
    """
    config, file_format = model.config, GGUFFormat(file_format)
    layout = layout_for(config)
    types = tensor_types(model, file_format)
    unfinished = path.with_name(path.name + ".partial")
    writer = GGUFWriter(unfinished, layout.architecture)
    try:
        _add_metadata(writer, layout, config, file_format, name)
        if tokenizer is not None:
            add_tokenizer(writer, tokenizer, config.vocabulary_size, end_of_text)
        else:
            add_vocabulary_size(writer, config.vocabulary_size)
        _add_originals(writer, layout, model)
        for key, shape in _shapes(layout, model).items():
            _announce(writer, key, shape, types[key])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for key, values in _tensors(layout, config, model.state_dict()):
            writer.write_tensor_data(_stored(values, types[key], threads))
        writer.close()
        unfinished.replace(path)
    finally:
        writer.close()
        unfinished.unlink(missing_ok=True)
    return types


def tensor_types(model: HybridLM, file_format: GGUFFormat) -> dict[str, GGMLQuantizationType]:
    """Storage type of every tensor the file would have.

    Raises ConfigurationError for a model that the architecture or the format cannot hold.
    """
    return choose_types(_shapes(layout_for(model.config), model), file_format)


def _add_metadata(writer: GGUFWriter, layout: Layout, config: ModelConfig, file_format: GGUFFormat, name: str) -> None:
    writer.add_name(name)
    writer.add_description(layout.runtime_notice)
    writer.add_file_type(file_format.file_type)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_context_length(config.maximum_context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layer_count)
    writer.add_feed_forward_length(config.feed_forward_width)
    writer.add_head_count(config.attention_heads)
    writer.add_head_count_kv(layout.key_value_heads(config))
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    layout.add_metadata(writer, config)
    writer.add_string(CONFIG_KEY, config.model_dump_json())
    writer.add_string(RUNTIME_KEY, layout.runtime_notice)


def _add_originals(writer: GGUFWriter, layout: Layout, model: HybridLM) -> None:
    """The exact values behind derived tensors."""
    parameters = model.state_dict()
    for derivation in layout.derivations(model.config):
        writer.add_array(derivation.key, parameters[derivation.parameter].float().flatten().tolist())


def _shapes(layout: Layout, model: HybridLM) -> dict[str, torch.Size]:
    """Shape of every tensor of the file, found without touching a value."""
    shadows = {name: values.to("meta") for name, values in model.state_dict().items()}
    return {name: values.shape for name, values in _tensors(layout, model.config, shadows)}


def _tensors(layout: Layout, config: ModelConfig, parameters: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the file by its name there, in file order."""
    for place in layout.placements(config):
        yield place.name, place.pack(parameters)
    for derivation in layout.derivations(config):
        yield from derivation.derive(parameters[derivation.parameter]).items()


def _announce(writer: GGUFWriter, name: str, shape: torch.Size, kind: GGMLQuantizationType) -> None:
    if kind in _NUMPY_TYPES:
        dtype = _NUMPY_TYPES[kind]
        writer.add_tensor_info(name, shape, dtype, shape.numel() * dtype.itemsize)
    else:
        packed = quant_shape_to_byte_shape(shape, kind)
        writer.add_tensor_info(name, packed, np.dtype(np.uint8), int(np.prod(packed)), raw_dtype=kind)


def _stored(values: Tensor, kind: GGMLQuantizationType, threads: int | None) -> npt.NDArray[np.generic]:
    array = np.ascontiguousarray(values.detach().float().cpu().numpy())
    return array.astype(_NUMPY_TYPES[kind]) if kind in _NUMPY_TYPES else quantize(array, kind, threads)
