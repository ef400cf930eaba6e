"""LoRA adapters on a `HybridLM`, by peft: put on, written in peft's own layout, merged into the base, taken out again.

The directory of adapters is what `peft.PeftModel.from_pretrained(model, directory)` opens: `adapter_config.json` and
`adapter_model.safetensors`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from infra.errors import ArtifactCorrupted, ConfigurationError
from infra.storage.local import atomic_file
from model import HybridLM, load
from tasks.finetuning.config import LoraConfig

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER_DIRECTORY = "adapter"
ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
#: peft's name of the only adapter of a model.
_ADAPTER = "default"
_WRAPPED = "base_model.model."


def linear_layers(model: HybridLM) -> list[str]:
    """Full names of the linear layers of mixers and feed-forwards; the head, tied to the embedding, is none."""
    return [name for name, part in model.named_modules() if isinstance(part, nn.Linear) and name.startswith("layers.")]


def target_names(model: HybridLM, chosen: tuple[str, ...] | None = None) -> list[str]:
    """Last names of the layers to adapt, as peft matches them.

    Raises ConfigurationError for a chosen name that no linear layer has.
    """
    known = sorted({name.rpartition(".")[2] for name in linear_layers(model)})
    unknown = sorted(set(chosen or ()) - set(known))
    if unknown:
        raise ConfigurationError(
            f"lora.targets: the model has no linear layers called {', '.join(unknown)}.",
            f"choose of: {', '.join(known)}; or leave targets out to adapt all.",
        )
    return sorted(chosen) if chosen else known


def add_adapters(model: HybridLM, config: LoraConfig, base: str) -> PeftModel:
    """Put fresh adapters on `model` in place (from torch's random state) and freeze everything else.

    base: what the adapters belong to, recorded with them.
    """
    import peft  # seconds, with transformers: only where adapters are made or read

    lora = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type, unused-ignore]
        lora_dropout=config.dropout,
        target_modules=target_names(model, config.targets),
    )
    wrapper = peft.get_peft_model(model, lora)  # type: ignore[arg-type, unused-ignore]
    wrapper.peft_config[_ADAPTER].base_model_name_or_path = base  # peft looks for it on the model and finds none
    return wrapper  # type: ignore[return-value, unused-ignore]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_adapters(wrapper: PeftModel, weights: Mapping[str, Tensor], directory: Path) -> None:
    """Write adapters; `weights` by the names `trainable` gives them."""
    import peft

    directory.mkdir(parents=True, exist_ok=True)
    named = {f"{_WRAPPED}{name}": tensor for name, tensor in weights.items()}
    state: dict[str, Tensor] = peft.get_peft_model_state_dict(wrapper, state_dict=named, save_embedding_layers=False)
    # Sorted, so that the same adapters are the same file.
    save_file({name: state[name].contiguous() for name in sorted(state)}, directory / ADAPTER_WEIGHTS_FILE)
    config = wrapper.peft_config[_ADAPTER]
    config.inference_mode = True
    config.save_pretrained(str(directory))
    path = directory / ADAPTER_CONFIG_FILE
    content = _sorted_targets(path.read_text(encoding="utf-8"))
    with atomic_file(path) as stream:
        stream.write(content.encode())


def load_adapters(model: HybridLM, directory: Path) -> PeftModel:
    """The model with adapters on it, in place, ready to be used; raises ArtifactCorrupted for a bad directory."""
    import peft

    try:
        wrapper = peft.PeftModel.from_pretrained(model, str(directory))  # type: ignore[arg-type, unused-ignore]
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ArtifactCorrupted(
            f"the adapters in '{directory}' cannot be put on the model: {error}.", "use them with the base they name."
        ) from error
    return wrapper


def merge(base_directory: Path, adapter_directory: Path) -> HybridLM:
    """The base with the adapters' products added to its matrices: a plain model."""
    wrapper: Any = load_adapters(load(base_directory), adapter_directory)
    merged: HybridLM = wrapper.merge_and_unload(safe_merge=True)
    return merged.requires_grad_().eval()


@torch.no_grad()
def unmerge(merged: HybridLM, adapter_directory: Path) -> HybridLM:
    """The base again, from a merged model and its adapters, in place; equal to it up to rounding.

    The base itself is kept whole in its own artifact: this is for whoever has the merged model alone.
    """
    from peft.tuners.lora import LoraLayer

    wrapper: Any = load_adapters(merged, adapter_directory)
    for layer in wrapper.modules():
        if isinstance(layer, LoraLayer):
            weight = layer.get_base_layer().weight
            weight -= layer.get_delta_weight(_ADAPTER).to(weight.dtype)  # type: ignore[operator, unused-ignore]
    base: HybridLM = wrapper.unload()
    return base.requires_grad_().eval()


def _sorted_targets(text: str) -> str:
    """peft keeps the targets in a set, whose order changes from run to run; files should not."""
    values = json.loads(text)
    for name, value in values.items():
        if name == "target_modules" and isinstance(value, list):
            values[name] = sorted(value)
    return json.dumps(values, indent=2, sort_keys=True) + "\n"
