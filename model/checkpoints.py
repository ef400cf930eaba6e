"""A model on disk: a directory with `config.json` and `model.safetensors`; those of Hugging Face open too."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoint_files import CONFIG_FILE, WEIGHTS_FILE, publish
from model.config import ModelConfig
from model.errors import CheckpointError
from model.exports.hugging_face import hugging_face_config, is_hugging_face, load_hugging_face
from model.language_model import HybridLM

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "load", "load_config", "save"]

_TIED = "lm_head.weight"


def save(model: HybridLM, directory: str | Path) -> None:
    """Write `model` to `directory`, each file whole or not at all; a tied head is stored as the embedding."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().contiguous()
        for name, tensor in model.state_dict().items()
        if not (model.config.tie_embeddings and name == _TIED)
    }
    weights = directory / f".{WEIGHTS_FILE}.{os.getpid()}"
    config = directory / f".{CONFIG_FILE}.{os.getpid()}"
    try:
        save_file(tensors, weights, metadata={"format": "pt"})
        config.write_text(model.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        publish(weights, directory / WEIGHTS_FILE)
        publish(config, directory / CONFIG_FILE)
    finally:
        weights.unlink(missing_ok=True)
        config.unlink(missing_ok=True)


def load(directory: str | Path, device: str | torch.device = "cpu") -> HybridLM:
    """The model that `save` wrote, in evaluation mode; a Hugging Face directory's in float32 (`load_hugging_face`)."""
    directory = Path(directory)
    if is_hugging_face(directory):
        return load_hugging_face(directory, device)
    config = load_config(directory)
    path = directory / WEIGHTS_FILE
    try:
        tensors = load_file(path, device=str(device))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: save the model again, or name another directory") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): restore it or save the model again") from error
    with torch.device("meta"):
        model = HybridLM(config)
    _check_tensors(model, tensors, path)
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie()
    # Loaded tensors replace parameters as they are; only float ones can be trained.
    return model.requires_grad_().eval()


def load_config(directory: str | Path) -> ModelConfig:
    """The configuration of a saved model, without its weights."""
    if is_hugging_face(directory):
        return hugging_face_config(directory)
    path = Path(directory) / CONFIG_FILE
    try:
        return ModelConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: {path.parent} is not a saved model") from error
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{path} does not describe a model this version can build: {error}") from error


def _check_tensors(model: HybridLM, tensors: dict[str, Tensor], path: Path) -> None:
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if model.config.tie_embeddings:
        del expected[_TIED]
    problems = [f"missing {name}" for name in sorted(expected.keys() - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - expected.keys())]
    problems += [
        f"{name} is {list(tensors[name].shape)}, {CONFIG_FILE} asks for {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise CheckpointError(f"{path} does not fit {CONFIG_FILE} beside it: {shown}")
