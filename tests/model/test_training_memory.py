"""What `model.sizing` says a training step keeps is what autograd holds."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor

from model import HybridLM, ModelConfig
from model.sizing import activation_memory, training_memory
from tests.support.live_memory import LiveMemory
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


def live_peak(model: HybridLM, batch: int, context: int, micro_batches: int) -> int:
    """Bytes of tensors alive at the fullest moment of the last micro-batch of an update, weights not counted."""
    model.zero_grad()
    tokens = torch.randint(0, model.config.vocabulary_size, (batch, context + 1))
    gc.collect()
    gc.disable()
    try:
        with LiveMemory() as live:
            for _ in range(micro_batches):
                live.start_peak()
                model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
            return live.peak
    finally:
        gc.enable()


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_fullest_moment_is_what_is_alive_then(family: str, gradient_checkpointing: bool) -> None:
    model = HybridLM(small_config(family, width=128, feed_forward_width=256, vocabulary_size=2048))
    model.gradient_checkpointing = gradient_checkpointing
    live_peak(model, 2, 64, 1)  # tables and kernels that are made once
    for micro_batches in (1, 2):
        memory = training_memory(model.config, 640, 2, gradient_checkpointing, accumulates=micro_batches > 1)
        expected = memory.peak - memory.weights - memory.optimizer
        assert live_peak(model, 2, 640, micro_batches) == pytest.approx(expected, rel=0.08)


def test_a_large_vocabulary_is_fullest_in_the_loss_and_recomputation_in_the_backward() -> None:
    config = small_config("hgrn2", vocabulary_size=8192)
    assert training_memory(config, 1024).phase == "loss"
    assert training_memory(config.changed(vocabulary_size=64), 1024, 1, True).phase == "backward"
    assert training_memory(config, 16).phase == "update"


def test_muon_keeps_one_moment_of_hidden_matrices() -> None:
    config = small_config("hgrn2")
    with_adamw, with_muon = (training_memory(config, 512, optimizer=name) for name in ("adamw", "muon"))
    model = HybridLM(config)
    hidden = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.dim() == 2 and not name.startswith(("embeddings.", "lm_head.", "lower_bounds"))
    )
    assert with_adamw.optimizer - with_muon.optimizer == 4 * hidden
    assert with_adamw.peak - with_muon.peak == 4 * hidden
