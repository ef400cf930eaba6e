"""Writing a model in a format, and what its users run it with."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from infra.artifacts.shards import SCRATCH_DIRECTORY
from infra.errors import ConfigurationError
from model import HybridLM, ModelConfig, ModelError
from model.exports.gguf import GGUFFormat, save_gguf, tensor_types
from model.exports.gguf.architectures import layout_for
from model.exports.onnx.directory import METADATA_FILE, describe
from model.interface import Runtime
from model.llama_cpp import Build, available_builds, build_for
from model.quantization import save_int4, save_int8
from model.quantization.directory import exact_rows, quantized_names
from model.quantization.weights import Int4Groups
from tasks.evaluation.inputs import EvaluationInputs
from tasks.quantization.config import WeightFormat

_TORCH = {WeightFormat.INT8: "torch, int8 products", WeightFormat.INT4: "torch, int4 products"}
_MISSING_BUILD = {
    Build.PATCHED: "llama.cpp with our patch is not built: read in torch",
    Build.STOCK: "xllamacpp is not installed: read in torch",
}


@dataclass(frozen=True)
class FormatRuntime:
    """What runs a format here; `label` says so in the table, and why when it is not what users would take."""

    runtime: Runtime
    label: str


def check_formats(model: HybridLM, formats: tuple[WeightFormat, ...]) -> None:
    """Raise ConfigurationError, before any work, when the model cannot be stored in one of the formats."""
    for weight_format in formats:
        try:
            _check_format(model, weight_format)
        except ModelError as error:
            raise ConfigurationError(
                f"quantization.formats has {weight_format}: {error}.",
                f"remove {weight_format} from quantization.formats, or change the model as said.",
            ) from error


def runtime_of(config: ModelConfig, weight_format: WeightFormat) -> FormatRuntime:
    """onnxruntime for ONNX, llama.cpp for GGUF where a build that knows the architecture is here, else torch."""
    if weight_format.is_onnx:
        kind = "float32" if weight_format is WeightFormat.ONNX else "int8"
        return FormatRuntime(Runtime.ONNX_RUNTIME, f"onnxruntime, {kind}")
    if not weight_format.is_gguf:
        return FormatRuntime(Runtime.TORCH, _TORCH[weight_format])
    build = build_for(layout_for(config).architecture)
    if build in available_builds():
        return FormatRuntime(Runtime.LLAMA_CPP, f"llama.cpp, {'with our patch' if build is Build.PATCHED else 'stock'}")
    return FormatRuntime(Runtime.TORCH, f"torch, float32 after dequantizing ({_MISSING_BUILD[build]})")


def gguf_notice(config: ModelConfig, formats: tuple[WeightFormat, ...]) -> str | None:
    """What runs this model's GGUF files; None where there are none."""
    if not any(weight_format.is_gguf for weight_format in formats):
        return None
    layout = layout_for(config)
    return f"architecture '{layout.architecture}'. {layout.runtime_notice}"


def write(inputs: EvaluationInputs, directory: Path, weight_format: WeightFormat, threads: int | None) -> list[Path]:
    """Write the model below `directory` and return the files; what an earlier attempt left there is replaced."""
    place = path_of(directory, weight_format)
    if weight_format.is_gguf:
        place.parent.mkdir(parents=True, exist_ok=True)
        save_gguf(
            inputs.model, place, GGUFFormat(weight_format),
            tokenizer=inputs.tokenizer_file, end_of_text=inputs.separator, threads=threads,
        )  # fmt: skip
        return [place]
    if weight_format.is_onnx:
        _write_onnx(inputs, directory, weight_format)
    else:
        (save_int8 if weight_format is WeightFormat.INT8 else save_int4)(inputs.model, place)
    return sorted(path for path in place.iterdir() if path.is_file())


def path_of(directory: Path, weight_format: WeightFormat) -> Path:
    """A file for GGUF, a directory for the others."""
    return directory / (f"gguf/model-{weight_format}.gguf" if weight_format.is_gguf else weight_format.value)


def _check_format(model: HybridLM, weight_format: WeightFormat) -> None:
    if weight_format.is_gguf:
        tensor_types(model, GGUFFormat(weight_format))
    elif weight_format.is_onnx:
        _check_onnx(model.config)
    elif weight_format is WeightFormat.INT4 and not _int4_matrices(model):
        raise ModelError(
            "no matrix has outputs in multiples of 16 and inputs in multiples of 32, so none would be int4: "
            "make width and feed_forward_width multiples of 32"
        )


def _check_onnx(config: ModelConfig) -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(f"the package {' and '.join(missing)} is not installed: pip install {' '.join(missing)}")
    # Imported here because the exporter takes seconds to import, and the other formats do not need it.
    from model.exports.onnx.graphs import GraphModel

    # Graphs of a model without memory: the layers are checked, no weight is copied.
    with torch.device("meta"):
        GraphModel(HybridLM(config))


def _int4_matrices(model: HybridLM) -> list[str]:
    """The linear layers whose weights the int4 kernel can take."""
    found, weights = [], model.state_dict()
    for name in quantized_names(model):
        outputs, inputs = weights[f"{name}.weight"].shape
        if name != "lm_head" and Int4Groups.fits((outputs - exact_rows(model, name), inputs)):
            found.append(name)
    return found


def _write_onnx(inputs: EvaluationInputs, directory: Path, weight_format: WeightFormat) -> None:
    """The float32 graphs are exported once, for both formats: by far the longest part."""
    from model.exports.onnx import save_onnx_int8

    target = path_of(directory, weight_format)
    if weight_format is WeightFormat.ONNX_INT8:
        shutil.rmtree(target, ignore_errors=True)
        save_onnx_int8(_float_export(inputs, directory), target)
        return
    export = _float_export(inputs, directory)
    if export != target:
        shutil.rmtree(target, ignore_errors=True)
        export.rename(target)


def _float_export(inputs: EvaluationInputs, directory: Path) -> Path:
    """Where the float32 graphs are: of this attempt or a killed one, else exported now."""
    from model.exports.onnx import save_onnx

    scratch = directory / SCRATCH_DIRECTORY / "onnx"
    for place in (path_of(directory, WeightFormat.ONNX), scratch):
        if (place / METADATA_FILE).is_file():
            try:
                describe(place)
                return place
            except ModelError:
                shutil.rmtree(place)
    save_onnx(inputs.model, scratch, inputs.tokenizer_file)
    return scratch
