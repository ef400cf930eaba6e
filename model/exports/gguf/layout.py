"""How a hybrid's weights are called and shaped in a GGUF file of architecture `hgrn2`.

The names are those our llama.cpp patch reads: an HGRN-2 layer keeps its projections under the
attention names (query, forget gate as key, input as value) and adds its norm, its three short
convolutions and one minus its lower bound as `time_mix_decay`; `head_count_kv` is 0 there.
Attention layers use the half-split (NEOX) rotary form, so no rows are permuted.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.config import ModelConfig
from model.errors import ConfigurationError

ARCHITECTURE = "hgrn2"
#: Epsilon of HGRN-2's own norm, fixed in fla and in the model.
HGRN2_NORM_EPS = 1e-5
CONVOLUTION_TAPS = 4

#: Our metadata: the full model configuration as JSON, and the trained lower bounds before their
#: softmax ([layers * width] floats; the file's `time_mix_decay` is derived from them).
CONFIG_KEY = "sam2.model_config"
LOWER_BOUNDS_KEY = "sam2.lower_bounds"
RUNTIME_KEY = "sam2.runtime"
RUNTIME_NOTICE = (
    "Architecture hgrn2 is not part of stock llama.cpp, which refuses this file. It runs in llama.cpp with this "
    "project's hgrn2 patch, and in this project's own reader (model.exports.gguf.load_gguf)."
)

_MIXER_TENSORS = {
    "attention": {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj"},
    "hgrn2": {"attn_q": "q_proj", "attn_k": "f_proj", "attn_v": "i_proj", "attn_output": "o_proj",
              "ssm_norm": "g_norm"},
}  # fmt: skip
_CONVOLUTIONS = {"ssm_conv1d_q": "q_conv1d", "ssm_conv1d_k": "f_conv1d", "ssm_conv1d_v": "i_conv1d"}


@dataclass(frozen=True)
class TensorPlace:
    """One tensor: its name in the file, its parameter in the model; a convolution loses its middle axis of one."""

    file_name: str
    parameter: str

    @property
    def is_convolution(self) -> bool:
        """Stored as [channels, taps], a parameter of [channels, 1, taps]."""
        return "conv1d" in self.parameter


def tensor_places(config: ModelConfig) -> list[TensorPlace]:
    """Every stored parameter of the model, in file order (the lower bounds are stored apart)."""
    places = [
        TensorPlace("token_embd.weight", "embeddings.weight"),
        TensorPlace("output_norm.weight", "norm.weight"),
    ]
    if not config.tie_embeddings:
        places.append(TensorPlace("output.weight", "lm_head.weight"))
    for index, kind in enumerate(config.mixer_kinds):
        places += _layer_places(config, index, kind)
    return places


def decay_name(index: int) -> str:
    """Name of layer `index`'s `1 - lower bound`, [width]."""
    return f"blk.{index}.time_mix_decay.weight"


def check_exportable(config: ModelConfig) -> None:
    """Raise ConfigurationError unless the architecture can hold this model."""
    foreign = sorted(set(config.mixer_kinds) - _MIXER_TENSORS.keys())
    if foreign:
        raise ConfigurationError(
            f"layer_kinds has {', '.join(foreign)}; the GGUF architecture '{ARCHITECTURE}' knows "
            f"{', '.join(sorted(_MIXER_TENSORS))}: export this model as safetensors"
        )
    if "hgrn2" not in config.mixer_kinds:
        raise ConfigurationError(
            f"layer_kinds has no hgrn2 layer, so GGUF architecture '{ARCHITECTURE}' does not fit: "
            "export this model as safetensors"
        )


def _layer_places(config: ModelConfig, index: int, kind: str) -> list[TensorPlace]:
    theirs, ours = f"blk.{index}", f"layers.{index}"
    pairs = {"attn_norm": "attn_norm", "ffn_norm": "mlp_norm"}
    pairs |= {f"ffn_{role}": f"mlp.{role}_proj" for role in ("gate", "up", "down")}
    pairs |= {name: f"attn.{parameter}" for name, parameter in _MIXER_TENSORS[kind].items()}
    if kind == "hgrn2" and config.short_convolution:
        pairs |= {name: f"attn.{parameter}" for name, parameter in _CONVOLUTIONS.items()}
    return [TensorPlace(f"{theirs}.{name}.weight", f"{ours}.{parameter}.weight") for name, parameter in pairs.items()]
