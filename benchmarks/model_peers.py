"""The hybrids of Hugging Face transformers that ours are compared with, at one size and one parameter count."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model import HybridLM, ModelConfig
from model.mixers import MIXERS

# On a machine without a GPU transformers would pick flash-linear-attention's Triton kernels where it is installed,
# and fail: without it, its models take their plain PyTorch paths.
sys.modules["fla"] = None  # type: ignore[assignment]

import transformers  # noqa: E402

#: Families of Hugging Face whose layers are linear-recurrent and softmax attention, mixed.
HYBRID_PEERS = ("GraniteMoeHybrid", "Qwen3.5", "OlmoHybrid")


@dataclass(frozen=True)
class Size:
    """What all models share."""

    width: int = 512
    layers: int = 8
    vocabulary: int = 8192
    parameters: float = 28e6


@dataclass(frozen=True)
class Candidate:
    """A model to measure: `build(free)` has more parameters the larger `free` is, a multiple of `unit`."""

    name: str
    build: Callable[[int], nn.Module]
    unit: int = 16
    is_ours: bool = False

    @property
    def is_hybrid_peer(self) -> bool:
        """Whether it counts as a Hugging Face hybrid."""
        return self.name in HYBRID_PEERS


def candidates(size: Size) -> list[Candidate]:
    """Ours whose mixers are registered, and the peers."""
    ours = [
        Candidate(f"ours {kind}", lambda free, kind=kind: HybridLM(_our_config(size, kind, free)), is_ours=True)
        for kind in ("hgrn2", "gated_deltanet", "mamba2")
        if kind in MIXERS
    ]
    peers = [
        Candidate("GraniteMoeHybrid", lambda free: _granite(size, free)),
        Candidate("Qwen3.5", lambda free: _qwen(size, free)),
        Candidate("OlmoHybrid", lambda free: _olmo(size, free)),
        Candidate("Mamba2", lambda free: _mamba2(size, free), unit=1),
        Candidate("Llama", lambda free: _llama(size, free)),
    ]
    return ours + peers


def built(candidate: Candidate, size: Size) -> nn.Module:
    """The candidate with the free dimension that brings it closest to the asked-for parameter count."""
    with torch.device("meta"):
        small, large = (parameters(candidate.build(steps * candidate.unit)) for steps in (8, 16))
    steps = 8 + round((size.parameters - small) / ((large - small) / 8))
    torch.manual_seed(0)
    model = candidate.build(steps * candidate.unit)
    if abs(parameters(model) / size.parameters - 1) > 0.02:
        raise ValueError(f"{candidate.name} has {parameters(model)} parameters, not within 2% of {size.parameters:.0f}")
    return model


def parameters(model: nn.Module) -> int:
    """Distinct parameters: a tied head is counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def qwen_delta_rule(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
    """Transformers' chunked gated delta rule in plain PyTorch."""
    from transformers.models.qwen3_5.modeling_qwen3_5 import torch_chunk_gated_delta_rule

    output: Tensor = torch_chunk_gated_delta_rule(query, key, value, g=log_decay, beta=beta)[0]
    return output


def granite_scan(inputs: Tensor, step_sizes: Tensor, decay_rates: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Transformers' chunked state space scan in plain PyTorch, at its default chunk size."""
    from transformers.models.granitemoehybrid.modeling_granitemoehybrid import mamba2_chunk_scan

    output: Tensor = mamba2_chunk_scan(inputs, step_sizes, decay_rates, B, C, chunk_size=256)
    return output


def _our_config(size: Size, kind: str, inner: int) -> ModelConfig:
    return ModelConfig(
        vocabulary_size=size.vocabulary,
        width=size.width,
        layer_count=size.layers,
        pattern=(kind, kind, kind, "attention"),
        feed_forward_width=inner,
        attention_heads=size.width // 64,
        key_value_heads=size.width // 128,
        maximum_context=1 << 20,
    )


def _shared(size: Size) -> dict[str, Any]:
    return {
        "vocab_size": size.vocabulary,
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "tie_word_embeddings": True,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _attention(size: Size) -> dict[str, Any]:
    return {
        "num_attention_heads": size.width // 64,
        "num_key_value_heads": size.width // 128,
        "max_position_embeddings": 1 << 20,
        "attn_implementation": "sdpa",
    }


def _layer_types(size: Size) -> list[str]:
    return ["full_attention" if layer % 4 == 3 else "linear_attention" for layer in range(size.layers)]


def _granite(size: Size, inner: int) -> nn.Module:
    config = transformers.GraniteMoeHybridConfig(
        **_shared(size),
        **_attention(size),
        layer_types=_layer_types(size),
        num_local_experts=0,
        shared_intermediate_size=inner,
        position_embedding_type="rope",
        attention_multiplier=64**-0.5,
        mamba_n_heads=size.width // 32,
        mamba_d_state=128,
    )
    return transformers.GraniteMoeHybridForCausalLM(config)


def _qwen(size: Size, inner: int) -> nn.Module:
    config = transformers.Qwen3_5TextConfig(
        **_shared(size),
        **_attention(size),
        layer_types=_layer_types(size),
        intermediate_size=inner,
        head_dim=64,
        linear_num_key_heads=size.width // 128,
        linear_num_value_heads=size.width // 128,
    )
    return transformers.Qwen3_5ForCausalLM(config)


def _olmo(size: Size, inner: int) -> nn.Module:
    heads = max(1, 3 * size.width // (4 * 128))
    config = transformers.OlmoHybridConfig(
        **_shared(size),
        **_attention(size),
        layer_types=_layer_types(size),
        intermediate_size=inner,
        linear_num_key_heads=heads,
        linear_num_value_heads=heads,
        linear_key_head_dim=128,
        linear_value_head_dim=256,
    )
    return transformers.OlmoHybridForCausalLM(config)


def _mamba2(size: Size, layers: int) -> nn.Module:
    shared = _shared(size) | {"num_hidden_layers": layers}
    config = transformers.Mamba2Config(
        **shared, num_heads=size.width // 32, head_dim=64, state_size=128, n_groups=1, chunk_size=256
    )
    return transformers.Mamba2ForCausalLM(config)


def _llama(size: Size, inner: int) -> nn.Module:
    config = transformers.LlamaConfig(**_shared(size), **_attention(size), intermediate_size=inner)
    return transformers.LlamaForCausalLM(config)
