"""Write a model as a directory that `AutoModelForCausalLM.from_pretrained` opens."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from model.checkpoint_files import CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE, publish
from model.config import ModelConfig
from model.errors import CheckpointError, ConfigurationError
from model.exports.hugging_face.layout import Layout
from model.exports.hugging_face.layouts import fitting_layout
from model.exports.hugging_face.places import Place
from model.exports.hugging_face.reading import is_hugging_face
from model.exports.hugging_face.tensor_files import write_tensors
from model.exports.hugging_face.tokenizer_files import write_tokenizer
from model.language_model import HybridLM

GENERATION_CONFIG_FILE = "generation_config.json"
SHARD_BYTES = 5_000_000_000

Precision = Literal["float32", "bfloat16", "float16"]
_DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
}  # fmt: skip


def save_hugging_face(
    model: HybridLM,
    directory: str | Path,
    tokenizer_json: str | Path | None = None,
    layout: str | None = None,
    *,
    precision: Precision = "float32",
    end_of_text: str = "<|endoftext|>",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `model` to `directory` in the layout of another library, with the same results.

    layout: a `model_type`: granitemoehybrid and qwen3_5_text open in transformers, hgrn2 and gated_deltanet in
    flash-linear-attention (`import fla` first). None takes the one for the model's linear mixer: mamba2
    granitemoehybrid, hgrn2 hgrn2, gated_deltanet gated_deltanet, or qwen3_5_text with query_key_norm.
    tokenizer_json: the model's tokenizer; `end_of_text`, where it is one of its tokens, begins and ends documents.
    precision: of the stored weights. shard_bytes: largest size of one weights file.

    Files left of an earlier export are replaced, others stay. config.json goes first and comes last, so that a
    directory that has one is complete.
    Raises ConfigurationError, naming the field and the fix, for a model that no layout or not this one represents
    exactly, and CheckpointError where a checkpoint of ours would be overwritten.
    """
    chosen = fitting_layout(model.config, layout)
    if precision not in _DTYPES:
        raise ConfigurationError(f"precision={precision!r} is unknown: choose one of {', '.join(_DTYPES)}")
    places = chosen.places(model.config)
    parameters = _plain_parameters(model, places)
    directory = Path(directory)
    _refuse_our_checkpoint(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=directory) as temporary:
        complete = Path(temporary)
        write_tensors(_stored_tensors(places, parameters, _DTYPES[precision]), complete, shard_bytes)
        separator = None
        if tokenizer_json is not None:
            separator = write_tokenizer(Path(tokenizer_json), complete, model.config, end_of_text)
        tokens = {"bos_token_id": separator, "eos_token_id": separator}
        _write_json(complete / GENERATION_CONFIG_FILE, tokens)
        _write_json(complete / CONFIG_FILE, _describe(chosen, model.config, precision, tokens))
        _replace_export(complete, directory)


def _describe(layout: Layout, config: ModelConfig, precision: str, tokens: dict[str, int | None]) -> dict[str, Any]:
    return {
        "architectures": [layout.architecture],
        "model_type": layout.model_type,
        "dtype": precision,
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layer_count,
        "max_position_embeddings": config.maximum_context,
        "tie_word_embeddings": config.tie_embeddings,
        "use_cache": True,
        "pad_token_id": None,
        **tokens,
        **layout.describe(config),
    }


def _plain_parameters(model: HybridLM, places: list[Place]) -> dict[str, Tensor]:
    """The parameters by name. Raises ConfigurationError when adapters or quantized layers are among them."""
    with torch.device("meta"):
        expected = HybridLM(model.config).state_dict()
    parameters = model.state_dict()
    foreign = [
        name
        for name in sorted(expected.keys() | parameters.keys())
        if name not in expected
        or not isinstance(parameters.get(name), Tensor)
        or parameters[name].shape != expected[name].shape
        or not parameters[name].is_floating_point()
    ]
    if foreign:
        raise ConfigurationError(
            f"the model's weights are not plain ones ({', '.join(foreign[:3])}): merge LoRA adapters into their layers "
            "first, and export the float model instead of a quantized one"
        )
    placed = {name for place in places for name in place.parameters}
    unplaced = expected.keys() - placed - ({"lm_head.weight"} if model.config.tie_embeddings else set())
    assert not unplaced, f"the layout has no place for {sorted(unplaced)}"
    return parameters


def _stored_tensors(
    places: list[Place], parameters: dict[str, Tensor], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    for place in places:
        tensor = place.store([parameters[name].detach() for name in place.parameters])
        stored = tensor.to("cpu", dtype).contiguous()
        if dtype == torch.float16 and not stored.isfinite().all() and tensor.isfinite().all():
            raise ConfigurationError(
                f"precision='float16': {place.stored} has a value of {tensor.abs().max().item():.3g}, and float16 ends "
                "at 65504; choose bfloat16"
            )
        yield place.stored, stored


def _refuse_our_checkpoint(directory: Path) -> None:
    if (directory / CONFIG_FILE).exists() and not is_hugging_face(directory):
        raise CheckpointError(
            f"{directory / CONFIG_FILE} is not of a Hugging Face model (a checkpoint of ours?): export to another "
            "directory"
        )


def _replace_export(complete: Path, directory: Path) -> None:
    (directory / CONFIG_FILE).unlink(missing_ok=True)
    shards = directory.glob(WEIGHTS_FILE.replace(".", "-*-of-*."))
    for old in (directory / WEIGHTS_FILE, directory / INDEX_FILE, *shards):
        old.unlink(missing_ok=True)
    files = sorted(complete.iterdir(), key=lambda file: file.name == CONFIG_FILE)
    for file in files:
        publish(file, directory / file.name)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
