"""A model with quantized projections on disk: `config.json` and one safetensors file.

What a recurrence multiplies up over thousands of steps stays exact: the projections that feed a decay (of a fused
projection, those of its rows), lower bounds, norms and convolutions. The embedding is float16 (a lookup adds no error
to a sum). A tied head is quantized from the embedding and stored beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.checkpoints import CONFIG_FILE, load_config
from model.errors import CheckpointError
from model.language_model import HybridLM
from model.mixers import Mamba2
from model.quantization.linear import JoinedLinear
from model.quantization.weights import Quantized

#: Projections that feed a decay: an error there grows with the length of the sequence.
_KEPT_EXACT = ("f_proj", "a_proj", "b_proj")
_EXACT_ROWS = ".weight_exact"
_EMBEDDING = "embeddings.weight"

#: The form a layer's quantized rows are stored in, by the layer's name and their shape.
ChooseForm = Callable[[str, tuple[int, int]], type[Quantized]]


def quantized_names(model: HybridLM) -> list[str]:
    """The linear modules whose weights are quantized."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith(_KEPT_EXACT)
    ]


def exact_rows(model: HybridLM, name: str) -> int:
    """Last rows of a quantized layer that stay exact: Mamba-2's step sizes, which are its decays."""
    mixer = model.get_submodule(name.rpartition(".")[0])
    return mixer.parts[-1] if isinstance(mixer, Mamba2) and name.endswith("in_proj") else 0


def save_quantized(model: HybridLM, directory: str | Path, file_name: str, form: ChooseForm, format_name: str) -> None:
    """Write `model` to `directory`; the weights file appears whole or not at all."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().float().contiguous() for name, tensor in model.state_dict().items()}
    for name in quantized_names(model):
        weight = tensors.pop(f"{name}.weight")
        inexact = len(weight) - exact_rows(model, name)
        if inexact < len(weight):
            tensors[name + _EXACT_ROWS] = weight[inexact:].clone()
        quantized = form(name, (inexact, weight.shape[1])).of(weight[:inexact])
        tensors |= {name + suffix: tensor for suffix, tensor in quantized.stored().items()}
    tensors[_EMBEDDING] = tensors[_EMBEDDING].half()
    partial = directory / f".{file_name}.{os.getpid()}"
    try:
        save_file(tensors, partial, metadata={"format": "pt", "quantization": format_name})
        partial.replace(directory / file_name)
    finally:
        partial.unlink(missing_ok=True)
    (directory / CONFIG_FILE).write_text(model.config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_quantized(directory: str | Path, file_name: str, form: ChooseForm, written_by: str) -> HybridLM:
    """What `save_quantized` wrote, on the CPU and in evaluation mode; it cannot be trained.

    Raises CheckpointError when the files are missing, damaged, or do not fit the configuration.
    """
    config = load_config(directory)
    path = Path(directory) / file_name
    tensors = _read(path, written_by)
    # Built without memory: every parameter is replaced by a stored one.
    with torch.device("meta"):
        model = HybridLM(config)
    layers = {name: _take_layer(model, name, tensors, path, form) for name in quantized_names(model)}
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


def _take_layer(model: HybridLM, name: str, tensors: dict[str, Tensor], path: Path, form: ChooseForm) -> nn.Module:
    """Linear layer `name` from its stored tensors, which leave `tensors`."""
    module = model.get_submodule(name)
    assert isinstance(module, nn.Linear)
    exact = exact_rows(model, name)
    shape = (module.out_features - exact, module.in_features)
    try:
        layer = form(name, shape).read(tensors, name, shape).layer()
        return JoinedLinear(layer, tensors.pop(name + _EXACT_ROWS)) if exact else layer
    except KeyError as error:
        raise CheckpointError(f"'{path}' lacks tensor {error}: quantize the model again") from error
    except ValueError as error:
        raise CheckpointError(f"'{path}': layer {name} {error} by {CONFIG_FILE}: quantize the model again") from error


def _read(path: Path, written_by: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"'{path}' does not exist: write it with {written_by}") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"'{path}' cannot be read ({error}): quantize the model again") from error
