"""Open a Hugging Face directory as a `HybridLM`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint_files import CONFIG_FILE
from model.config import ModelConfig
from model.errors import CheckpointError
from model.exports.hugging_face.fields import Fields
from model.exports.hugging_face.layouts import layout_of
from model.exports.hugging_face.places import Place
from model.exports.hugging_face.tensor_files import StoredTensors
from model.language_model import HybridLM

_HEAD = "lm_head.weight"


def load_hugging_face(
    directory: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> HybridLM:
    """The model of a directory in one of our layouts, whoever wrote it, in evaluation mode.

    Weights are converted to `dtype`, whatever they are stored in. Raises ConfigurationError, naming the field, for
    what our model cannot represent, and CheckpointError for missing, damaged or foreign files.
    """
    directory = Path(directory)
    config, places = _open(directory)
    with torch.device("meta"):
        model = HybridLM(config)
    with StoredTensors(directory, str(device)) as stored:
        parameters = _parameters(model, places, stored, dtype)
    model.load_state_dict(parameters, strict=False, assign=True)
    model.tie()
    return model.requires_grad_().eval()


def hugging_face_config(directory: str | Path) -> ModelConfig:
    """The configuration of a Hugging Face directory, without its weights; raises what `load_hugging_face` does."""
    return _open(Path(directory))[0]


def is_hugging_face(directory: str | Path) -> bool:
    """Whether a directory's `config.json` is a Hugging Face one: only theirs has a `model_type`."""
    try:
        values = json.loads((Path(directory) / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and "model_type" in values


def _open(directory: Path) -> tuple[ModelConfig, list[Place]]:
    fields = Fields.read(directory)
    return layout_of(fields.get("model_type")).open(fields)


def _parameters(model: HybridLM, places: list[Place], stored: StoredTensors, dtype: torch.dtype) -> dict[str, Tensor]:
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    _check_tensors(places, shapes, stored, tied=model.config.tie_embeddings)
    parameters: dict[str, Tensor] = {}
    for place in places:
        tensor = stored.read(place.stored).to(dtype)
        restored = place.restore(tensor, [shapes[name] for name in place.parameters])
        parameters |= zip(place.parameters, restored, strict=True)
    return parameters


def _check_tensors(places: list[Place], shapes: dict[str, torch.Size], stored: StoredTensors, *, tied: bool) -> None:
    expected = {place.stored: _stored_shape(place, shapes) for place in places}
    found = stored.names()
    if tied and _HEAD in found:
        _check_tied_head(places[0].stored, stored)
        found.discard(_HEAD)
    problems = [f"missing {name}" for name in sorted(expected.keys() - found)]
    problems += [f"unexpected {name}" for name in sorted(found - expected.keys())]
    problems += [
        f"{name} is {list(stored.shape(name))}, {CONFIG_FILE} asks for {list(shape)}"
        for name, shape in expected.items()
        if name in found and stored.shape(name) != shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise CheckpointError(f"{stored.path} does not fit {CONFIG_FILE} beside it: {shown}")


def _stored_shape(place: Place, shapes: dict[str, torch.Size]) -> torch.Size:
    parameters = [torch.empty(shapes[name], device="meta") for name in place.parameters]
    return place.store(parameters).shape


def _check_tied_head(embeddings: str, stored: StoredTensors) -> None:
    """Some writers store the shared matrix twice; two different ones are no tied model."""
    if embeddings not in stored.names() or not torch.equal(stored.read(_HEAD), stored.read(embeddings)):
        raise CheckpointError(
            f"{stored.path} holds a {_HEAD} of its own, but tie_word_embeddings is true in {CONFIG_FILE}: set it to "
            "false, or remove the tensor"
        )
