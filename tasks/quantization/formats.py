"""Writing a model in a format, and reading it back from disk."""

from __future__ import annotations

from pathlib import Path

from infra.errors import ConfigurationError
from model import HybridLM, ModelError
from model.exports.gguf import GGUFFormat, load_gguf, save_gguf, tensor_types
from model.quantization import load_int8, save_int8
from tasks.evaluation.inputs import EvaluationInputs
from tasks.quantization.config import WeightFormat

#: What computes with a format when we load it, for the table.
RUNTIMES = {
    WeightFormat.INT8: "torch, int8 products",
    WeightFormat.F32: "torch, float32",
    WeightFormat.F16: "torch, float32 after dequantizing",
    WeightFormat.Q8_0: "torch, float32 after dequantizing",
    WeightFormat.Q4_K_M: "torch, float32 after dequantizing",
}


def check_formats(model: HybridLM, formats: tuple[WeightFormat, ...]) -> None:
    """Raise ConfigurationError, before any work, when the model cannot be stored in one of the formats."""
    for weight_format in formats:
        if weight_format is WeightFormat.INT8:
            continue
        try:
            tensor_types(model, GGUFFormat(weight_format))
        except ModelError as error:
            raise ConfigurationError(
                f"quantization.formats has {weight_format}: {error}.",
                f"remove {weight_format} from quantization.formats, or change the model as said.",
            ) from error


def write(inputs: EvaluationInputs, directory: Path, weight_format: WeightFormat, threads: int | None) -> list[Path]:
    """Write the model below `directory` and return the files."""
    place = path_of(directory, weight_format)
    if weight_format is WeightFormat.INT8:
        save_int8(inputs.model, place)
        return sorted(place.iterdir())
    place.parent.mkdir(parents=True, exist_ok=True)
    save_gguf(
        inputs.model, place, GGUFFormat(weight_format),
        tokenizer=inputs.tokenizer_file, end_of_text=inputs.separator, threads=threads,
    )  # fmt: skip
    return [place]


def read(directory: Path, weight_format: WeightFormat) -> HybridLM:
    """The model that `write` stored."""
    place = path_of(directory, weight_format)
    return load_int8(place) if weight_format is WeightFormat.INT8 else load_gguf(place)


def path_of(directory: Path, weight_format: WeightFormat) -> Path:
    """A directory for int8, a file for GGUF."""
    return directory / ("int8" if weight_format is WeightFormat.INT8 else f"gguf/model-{weight_format}.gguf")
