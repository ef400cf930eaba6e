"""Find out what a path holds and open it."""

from __future__ import annotations

import logging
from enum import StrEnum
from pathlib import Path

from tokenizers import Tokenizer

from model.checkpoint_files import CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE
from model.checkpoints import load
from model.errors import CheckpointError, ConfigurationError
from model.exports.gguf import load_gguf, read_architecture, read_config, read_tokenizer_json
from model.exports.hugging_face import LAYOUTS, hugging_face_config, is_hugging_face
from model.exports.onnx.directory import METADATA_FILE as ONNX_FILE
from model.interface.contract import ModelFormat, ModelInterface
from model.interface.hugging_face import open_in_transformers
from model.interface.hugging_face_files import HUB_PREFIX, config_fields, hub_directory, knows, refuse_pickles
from model.interface.hybrid import HybridInterface
from model.interface.llama_cpp import LlamaCodec, LlamaInterface, TokenizerCodec
from model.language_model import HybridLM
from model.llama_cpp import LlamaModel, available_builds, build_for
from model.quantization import INT4_WEIGHTS_FILE, INT8_WEIGHTS_FILE, load_int4, load_int8
from model.tokenizer_files import TOKENIZER_FILE, find_tokenizer, parse_tokenizer, read_tokenizer, separator_of

_log = logging.getLogger(__name__)


class Runtime(StrEnum):
    """What computes."""

    TORCH = "torch"
    LLAMA_CPP = "llama.cpp"
    ONNX_RUNTIME = "onnxruntime"
    TRANSFORMERS = "transformers"


def open_model(
    path: str | Path, tokenizer_path: str | Path | None = None, runtime: Runtime | str | None = None
) -> ModelInterface:
    """Open a directory of a checkpoint, of int8 or int4 weights or of an ONNX export, or a GGUF file.

    A checkpoint is ours or in Hugging Face form; a weights file (`onnx.json` of an export) means its directory.
    `hf://organisation/name[@revision]` is a directory on the Hub.

    The tokenizer is the one given, else `tokenizer.json` beside the weights or one directory up,
    else the one stored in the GGUF file. runtime: by default llama.cpp for GGUF files where a build for
    their architecture is installed, transformers for Hugging Face directories that our code cannot represent, else
    torch. Raises CheckpointError when the path holds no model, more than one, or no tokenizer is found; ModelError
    when the runtime asked for is not installed.
    """
    on_hub = str(path).startswith((HUB_PREFIX, str(Path(HUB_PREFIX)) + "/"))
    model_format, weights = detect(hub_directory(str(path)) if on_hub else Path(path))
    given = None if tokenizer_path is None else Path(tokenizer_path)
    chosen = _runtime(model_format, weights, runtime)
    if chosen is Runtime.TRANSFORMERS:
        return open_in_transformers(weights.parent, given)
    if chosen is Runtime.LLAMA_CPP:
        return _open_in_llama_cpp(weights, given)
    tokenizer = _open_tokenizer(model_format, weights, given)
    if chosen is Runtime.ONNX_RUNTIME:
        return _open_in_onnxruntime(weights, tokenizer)
    model = _load(model_format, weights)
    return HybridInterface(model, tokenizer, separator_of(tokenizer).token, model_format, _file_bytes(weights))


def detect(path: Path) -> tuple[ModelFormat, Path]:
    """The format and the file with the weights."""
    by_name = {
        WEIGHTS_FILE: ModelFormat.FLOAT32,
        INDEX_FILE: ModelFormat.FLOAT32,
        INT8_WEIGHTS_FILE: ModelFormat.INT8,
        INT4_WEIGHTS_FILE: ModelFormat.INT4,
        ONNX_FILE: ModelFormat.ONNX,
    }
    if path.is_file():
        if path.suffix == ".gguf":
            return ModelFormat.GGUF, path
        if path.name in by_name:
            return by_name[path.name], path
        raise CheckpointError(f"'{path}' is no weights file: give a .gguf file or a checkpoint directory")
    found = [(by_name[name], path / name) for name in by_name if (path / name).is_file()]
    found += [(ModelFormat.GGUF, file) for file in sorted(path.glob("*.gguf"))]
    if not found:
        refuse_pickles(path)
        raise CheckpointError(
            f"'{path}' holds no model: expected {WEIGHTS_FILE}, {INT8_WEIGHTS_FILE} or {INT4_WEIGHTS_FILE} with "
            f"{CONFIG_FILE}, an ONNX export with {ONNX_FILE}, or a .gguf file"
        )
    if len(found) > 1:
        names = ", ".join(file.name for _, file in found)
        raise CheckpointError(f"'{path}' holds several models ({names}): name one of these files")
    return found[0]


def _file_bytes(weights: Path) -> int:
    """Size of the weights; those in several files stand beside their index."""
    files = weights.parent.glob("*.safetensors") if weights.name == INDEX_FILE else [weights]
    return sum(file.stat().st_size for file in files)


def _runtime(model_format: ModelFormat, weights: Path, wanted: Runtime | str | None) -> Runtime:
    if model_format is ModelFormat.FLOAT32 and is_hugging_face(weights.parent):
        return _hugging_face_runtime(weights, wanted)
    if wanted is not None and Runtime(wanted) is Runtime.TRANSFORMERS:
        raise CheckpointError(f"'{weights}' is in no Hugging Face directory, and {wanted} opens nothing else")
    if model_format is ModelFormat.ONNX:
        if wanted is not None and Runtime(wanted) is not Runtime.ONNX_RUNTIME:
            raise CheckpointError(f"'{weights}' is an ONNX export, which only {Runtime.ONNX_RUNTIME} runs")
        return Runtime.ONNX_RUNTIME
    if model_format is not ModelFormat.GGUF:
        if wanted is not None and Runtime(wanted) is not Runtime.TORCH:
            raise CheckpointError(f"'{weights}' is no GGUF file, and {wanted} runs no other: export it first")
        return Runtime.TORCH
    if wanted is not None:
        return Runtime(wanted)
    build = build_for(read_architecture(weights))
    if build in available_builds():
        return Runtime.LLAMA_CPP
    _log.info("'%s' runs in torch: it needs the %s build of llama.cpp, which is not installed", weights, build)
    return Runtime.TORCH


def _hugging_face_runtime(weights: Path, wanted: Runtime | str | None) -> Runtime:
    """Our own code for what it can represent, transformers for what else that has."""
    if wanted is not None:
        if Runtime(wanted) not in (Runtime.TORCH, Runtime.TRANSFORMERS):
            raise CheckpointError(f"'{weights}' is no GGUF file, and {wanted} runs no other: export it first")
        return Runtime(wanted)
    directory = weights.parent
    if config_fields(directory).get("model_type") not in LAYOUTS:
        return Runtime.TRANSFORMERS
    try:
        hugging_face_config(directory)
    except ConfigurationError as error:
        if not knows(directory):
            raise
        _log.info("'%s' runs in %s, for ours cannot represent it: %s", directory, Runtime.TRANSFORMERS, error)
        return Runtime.TRANSFORMERS
    return Runtime.TORCH


def _open_in_llama_cpp(weights: Path, given_tokenizer: Path | None) -> LlamaInterface:
    model = LlamaModel(weights, build_for(read_architecture(weights)))
    config = read_config(weights)
    # A file of another tool has only llama.cpp's form of its tokenizer.
    if config is None and given_tokenizer is None and model.has_tokenizer:
        return LlamaInterface(model, LlamaCodec(model))
    tokenizer = _open_tokenizer(ModelFormat.GGUF, weights, given_tokenizer)
    return LlamaInterface(model, TokenizerCodec(tokenizer, separator_of(tokenizer).token), config)


def _open_in_onnxruntime(description: Path, tokenizer: Tokenizer) -> ModelInterface:
    # Imported here because a machine that serves other formats need not have onnxruntime.
    from model.exports.onnx.runtime import OnnxRuntime
    from model.interface.onnx_runtime import OnnxRuntimeModel

    return OnnxRuntimeModel(OnnxRuntime(description.parent), tokenizer, separator_of(tokenizer).token)


def _load(model_format: ModelFormat, weights: Path) -> HybridLM:
    if model_format is ModelFormat.GGUF:
        return load_gguf(weights)
    load_directory = {ModelFormat.INT8: load_int8, ModelFormat.INT4: load_int4}.get(model_format, load)
    return load_directory(weights.parent)


def _open_tokenizer(model_format: ModelFormat, weights: Path, given: Path | None) -> Tokenizer:
    place = given or find_tokenizer(weights.parent)
    if place is not None:
        return read_tokenizer(place)
    stored = read_tokenizer_json(weights) if model_format is ModelFormat.GGUF else None
    if stored is None:
        raise CheckpointError(f"no {TOKENIZER_FILE} in '{weights.parent}' or one directory up: give tokenizer_path")
    return parse_tokenizer(stored, str(weights))
