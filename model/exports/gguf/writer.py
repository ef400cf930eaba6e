"""Write a hybrid as GGUF: F32, F16, Q8_0 or Q4_K_M, with its tokenizer.

Stock llama.cpp has no `hgrn2` architecture and refuses the file; the patched runtime and our own
`load_gguf` read it. The file says so itself (`general.description`, `sam2.runtime`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter

from model.config import ModelConfig
from model.exports.gguf.ggml import quantize
from model.exports.gguf.layout import (
    ARCHITECTURE,
    CONFIG_KEY,
    CONVOLUTION_TAPS,
    HGRN2_NORM_EPS,
    LOWER_BOUNDS_KEY,
    RUNTIME_KEY,
    RUNTIME_NOTICE,
    check_exportable,
    decay_name,
    tensor_places,
)
from model.exports.gguf.mix import GGUFFormat, choose_types
from model.exports.gguf.vocabulary import add_tokenizer, add_vocabulary_size
from model.language_model import HybridLM

FloatArray = npt.NDArray[np.float32]


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
    """Write `model` to `path` and return every tensor's storage type.

    tokenizer: a `tokenizer.json` of a byte-level BPE; without one the file serves token ids only.
    end_of_text: the token that ends every document, and opens one.
    Raises ConfigurationError for a model the architecture cannot hold, for rows that do not fit
    the format's blocks (naming the tensor) and for a tokenizer llama.cpp has no name for.
    """
    config, file_format = model.config, GGUFFormat(file_format)
    types = tensor_types(model, file_format)
    tensors = _tensors(model)
    writer = GGUFWriter(path, ARCHITECTURE)
    _add_metadata(writer, config, file_format, name)
    if tokenizer is not None:
        add_tokenizer(writer, tokenizer, config.vocabulary_size, end_of_text)
    else:
        add_vocabulary_size(writer, config.vocabulary_size)
    if (bounds := _lower_bounds(model)) is not None:
        writer.add_array(LOWER_BOUNDS_KEY, bounds.ravel().tolist())
    for key, tensor in tensors.items():
        _add_tensor(writer, key, tensor, types[key], threads)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return types


def tensor_types(model: HybridLM, file_format: GGUFFormat) -> dict[str, GGMLQuantizationType]:
    """Storage type of every tensor the file would have.

    Raises ConfigurationError for a model that the architecture or the format cannot hold.
    """
    check_exportable(model.config)
    return choose_types({name: tensor.shape for name, tensor in _tensors(model).items()}, file_format)


def _add_metadata(writer: GGUFWriter, config: ModelConfig, file_format: GGUFFormat, name: str) -> None:
    writer.add_name(name)
    writer.add_description(RUNTIME_NOTICE)
    writer.add_file_type(file_format.file_type)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_context_length(config.maximum_context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layer_count)
    writer.add_feed_forward_length(config.feed_forward_width)
    writer.add_head_count(config.attention_heads)
    is_attention = [kind == "attention" for kind in config.mixer_kinds]
    writer.add_head_count_kv([config.key_value_heads if flag else 0 for flag in is_attention])
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_group_norm_eps(HGRN2_NORM_EPS)
    writer.add_wkv_head_size(config.hgrn2_head_dim)
    if config.short_convolution:
        writer.add_ssm_conv_kernel(CONVOLUTION_TAPS)
    writer.add_string(CONFIG_KEY, config.model_dump_json())
    writer.add_string(RUNTIME_KEY, RUNTIME_NOTICE)


def _tensors(model: HybridLM) -> dict[str, FloatArray]:
    """Every tensor of the file in f32, by its name there."""
    parameters = model.state_dict()
    tensors: dict[str, FloatArray] = {}
    for place in tensor_places(model.config):
        values = parameters[place.parameter].detach().float()
        tensors[place.file_name] = (values.squeeze(1) if place.is_convolution else values).numpy()
    bounds = _lower_bounds(model)
    if bounds is not None:
        cumulative = cumulative_lower_bounds(bounds)
        for index, kind in enumerate(model.config.mixer_kinds):
            if kind == "hgrn2":
                tensors[decay_name(index)] = np.ascontiguousarray(1 - cumulative[index])
    return tensors


def cumulative_lower_bounds(bounds: FloatArray) -> FloatArray:
    """Each layer's least decay: the softmax over layers, summed up to it, without the first. [layers, width]"""
    shares = np.exp(bounds - bounds.max(axis=0, keepdims=True))
    shares /= shares.sum(axis=0, keepdims=True)
    result: FloatArray = (np.cumsum(shares, axis=0) - shares[:1]).astype(np.float32)
    return result


def _lower_bounds(model: HybridLM) -> FloatArray | None:
    bounds = model.state_dict().get("lower_bounds")
    return None if bounds is None else bounds.detach().float().numpy()


def _add_tensor(
    writer: GGUFWriter, name: str, tensor: FloatArray, kind: GGMLQuantizationType, threads: int | None
) -> None:
    if kind is GGMLQuantizationType.F32:
        writer.add_tensor(name, np.ascontiguousarray(tensor))
    elif kind is GGMLQuantizationType.F16:
        writer.add_tensor(name, tensor.astype(np.float16))
    else:
        writer.add_tensor(name, quantize(tensor, kind, threads), raw_dtype=kind)
