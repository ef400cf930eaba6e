"""Int8 weights, one scale a row: a directory with `config.json` and `model-int8.safetensors`.

Every projection and the head are stored as int8 rows with a float32 scale each (symmetric,
`scale = max |row| / 127`). What a recurrence multiplies up over thousands of steps stays in float32:
forget-gate projections, lower bounds, norms and convolutions. The embedding is float16 (a lookup
adds no error to a sum). A tied head is quantized from the embedding and stored beside it.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.checkpoints import CONFIG_FILE, load_config
from model.errors import CheckpointError
from model.language_model import HybridLM
from model.quantization.linear import int8_linear

WEIGHTS_FILE = "model-int8.safetensors"
#: Projections that feed a decay: an error there grows with the length of the sequence.
_KEPT_EXACT = ("f_proj", "a_proj", "b_proj")
_SCALE = ".weight_scale"
_EMBEDDING = "embeddings.weight"


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Int8 rows and their float32 scales: `weight ≈ rows * scales[:, None]`. [out, in] -> [out, in], [out]"""
    weight = weight.detach().float()
    scales = weight.abs().amax(dim=1) / 127
    # A row of zeros has no scale; any will do.
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    return (weight / scales[:, None]).round().clamp(-127, 127).to(torch.int8), scales


def quantized_names(model: HybridLM) -> list[str]:
    """The linear modules whose weights are stored as int8."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith(_KEPT_EXACT)
    ]


def save_int8(model: HybridLM, directory: str | Path) -> None:
    """Write `model` to `directory` with int8 weights; a file appears whole or not at all."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().float().contiguous() for name, tensor in model.state_dict().items()}
    for name in quantized_names(model):
        rows, scales = quantize_rows(tensors[f"{name}.weight"])
        tensors[f"{name}.weight"], tensors[name + _SCALE] = rows, scales
    tensors[_EMBEDDING] = tensors[_EMBEDDING].half()
    partial = directory / f".{WEIGHTS_FILE}.{os.getpid()}"
    try:
        save_file(tensors, partial, metadata={"format": "pt", "quantization": "int8 rows"})
        partial.replace(directory / WEIGHTS_FILE)
    finally:
        partial.unlink(missing_ok=True)
    (directory / CONFIG_FILE).write_text(model.config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_int8(directory: str | Path) -> HybridLM:
    """A model on the CPU whose quantized projections compute in int8, in evaluation mode; it cannot be trained.

    Raises CheckpointError when the files are missing, damaged, or do not fit the configuration.
    """
    config = load_config(directory)
    path = Path(directory) / WEIGHTS_FILE
    tensors = _read(path)
    # Built without memory: every parameter is replaced by a stored one.
    with torch.device("meta"):
        model = HybridLM(config)
    layers = {name: _take_layer(model, name, tensors, path) for name in quantized_names(model)}
    floats = {name: tensor.float() for name, tensor in tensors.items()}
    try:
        missing, unexpected = model.load_state_dict(floats, strict=False, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"'{path}' does not fit {CONFIG_FILE}: {error}; quantize the model again") from error
    absent = [name for name in missing if name.removesuffix(".weight") not in layers]
    if absent or unexpected:
        raise CheckpointError(
            f"'{path}' does not fit {CONFIG_FILE} (missing {absent}, unknown {unexpected}): quantize the model again"
        )
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    return model.requires_grad_(False).eval()


def _take_layer(model: HybridLM, name: str, tensors: dict[str, Tensor], path: Path) -> nn.Module:
    """Linear layer `name` from its stored rows, which leave `tensors`."""
    try:
        rows, scales = tensors.pop(f"{name}.weight"), tensors.pop(name + _SCALE)
    except KeyError as error:
        raise CheckpointError(f"'{path}' lacks tensor {error}: quantize the model again") from error
    module = model.get_submodule(name)
    assert isinstance(module, nn.Linear)
    expected = (module.out_features, module.in_features)
    if tuple(rows.shape) != expected or scales.shape != rows.shape[:1] or rows.dtype != torch.int8:
        raise CheckpointError(
            f"'{path}': {name}.weight is {rows.dtype} {tuple(rows.shape)} with {tuple(scales.shape)} scales, but "
            f"{CONFIG_FILE} asks for int8 {expected}: quantize the model again"
        )
    return int8_linear(rows, scales)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"'{path}' does not exist: write it with save_int8") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"'{path}' cannot be read ({error}): quantize the model again") from error
