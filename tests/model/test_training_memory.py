"""What `model.sizing` says a training step keeps is what autograd holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model import HybridLM, ModelConfig
from model.sizing import activation_memory, training_memory
from tests.support.trained_models import FAMILIES, small_config

CASES: dict[str, dict[str, object]] = {
    "plain": {},
    "wider": {"width": 128, "feed_forward_width": 512},
    "untied": {"tie_embeddings": False, "vocabulary_size": 1000},
    "query_key_norm": {"query_key_norm": True},
    "attention_only": {"feed_forward_layers": "attention_only"},
}


def kept_bytes(model: HybridLM, batch: int, context: int) -> int:
    """Bytes of all storages that autograd holds when the loss is known, parameters and token ids aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.is_floating_point():
            held[storage.data_ptr()] = tensor
        return tensor

    tokens = torch.randint(0, model.config.vocabulary_size, (batch, context + 1))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
    assert loss.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


def expected_bytes(config: ModelConfig, batch: int, context: int, gradient_checkpointing: bool = False) -> int:
    """Activations, and what the loss keeps until its backward: gradients of the head's input and weight."""
    memory = training_memory(config, context, batch, gradient_checkpointing)
    logits = 4 * min(batch * context, 1024) * config.vocabulary_size
    return sum(memory.activations.values()) + memory.loss - logits


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("case", CASES)
def test_activations_are_those_that_autograd_keeps(family: str, case: str) -> None:
    config = small_config(family, **CASES[case])
    measured = kept_bytes(HybridLM(config), batch=2, context=320)
    assert measured == pytest.approx(expected_bytes(config, 2, 320), rel=0.03)


@pytest.mark.parametrize("context", [64, 333, 1024])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_activations_at_any_length(family: str, context: int) -> None:
    config = small_config(family)
    assert kept_bytes(HybridLM(config), 1, context) == pytest.approx(expected_bytes(config, 1, context), rel=0.03)


def test_hgrn2_without_convolutions_keeps_less() -> None:
    config = small_config("hgrn2", short_convolution=False)
    assert kept_bytes(HybridLM(config), 2, 320) == pytest.approx(expected_bytes(config, 2, 320), rel=0.03)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_recomputed_blocks_keep_their_inputs(family: str) -> None:
    """Autograd itself holds the inputs; the formula adds the largest block, which is there during the backward."""
    model = HybridLM(small_config(family))
    model.gradient_checkpointing = True
    recomputed = activation_memory(model.config, 320, 2, gradient_checkpointing=True)
    largest = sum(recomputed.values()) - recomputed["block_inputs"]
    last_norm = 4 * 640 * (2 * model.config.width + 1)
    inputs = expected_bytes(model.config, 2, 320, gradient_checkpointing=True) - largest + last_norm
    assert kept_bytes(model, 2, 320) == pytest.approx(inputs, rel=0.03)


def test_memory_of_the_long_context_model() -> None:
    config = small_config("hgrn2")
    memory = training_memory(config, 512)
    assert memory.weights == memory.gradients == memory.optimizer // 2
    assert memory.total > memory.weights * 4 + sum(memory.activations.values())
    plain, recomputed = (training_memory(config, 512, 1, flag).total for flag in (False, True))
    assert recomputed < plain
