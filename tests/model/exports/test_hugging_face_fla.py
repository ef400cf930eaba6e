"""flash-linear-attention agrees with us on our files and on its own (its Triton kernels, interpreted)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model import HybridLM, generate
from model.exports.hugging_face import load_hugging_face, save_hugging_face
from tests.support.trained_models import text, trained_model
from tests.support.triton_interpreter import Call, ModelRun, interpret

_COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "vocab_size": 61, "norm_eps": 1e-5}
_ATTENTION = {"layers": [0], "num_heads": 4, "num_kv_heads": 1, "rope_theta": 5e4}
#: What fla's users write: head counts instead of sizes, other epsilons, attention first, tied and untied.
_THEIRS: dict[str, dict[str, Any]] = {
    "HGRN2ForCausalLM": {"attn": _ATTENTION, "expand_ratio": None, "num_heads": 2, "tie_word_embeddings": True},
    "GatedDeltaNetForCausalLM": {"attn": [_ATTENTION], "head_dim": 8, "num_heads": 3, "expand_v": 1.0},
}


@pytest.mark.slow
def test_both_fla_layouts_in_both_directions(tmp_path: Path) -> None:
    """One test, because the child process that interprets the kernels takes seconds to start."""
    ours = {family: trained_model(family) for family in ("hgrn2", "gated_deltanet")}
    prompt = text()[1000:1020].view(1, -1)
    # fla decodes our continuation in one pass, which says what it would have chosen at each of its tokens, and
    # goes on for two with its cache; an interpreted token takes most of a second.
    written = {family: torch.tensor(generate(model, prompt, 20)) for family, model in ours.items()}
    prompts = {family: torch.cat([prompt, tokens], dim=1) for family, tokens in written.items()}
    for family, model in ours.items():
        save_hugging_face(model, tmp_path / family)
    random_prompt = torch.randint(0, 61, (1, 9), generator=torch.Generator().manual_seed(1))
    runs = [ModelRun(tmp_path / family, tokens, new_tokens=2) for family, tokens in prompts.items()]
    calls = [
        Call(
            "tests.support.fla_models:save_random_model",
            {"tokens": random_prompt},
            {"architecture": name, "directory": str(tmp_path / name), "fields": _COMMON | fields},
        )
        for name, fields in _THEIRS.items()
    ]
    results = interpret([*runs, *calls])

    for (family, model), result in zip(ours.items(), results[:2], strict=True):
        _assert_equal(result["logits"], model, prompts[family])
        assert torch.equal(result["logits"][:, -21:-1].argmax(dim=-1), written[family])
        assert result["continuation"].tolist() == generate(model, prompts[family], 2)
    for name, result in zip(_THEIRS, results[2:], strict=True):
        assert len(list((tmp_path / name).glob("model-*.safetensors"))) > 1
        _assert_equal(result["result0"], load_hugging_face(tmp_path / name), random_prompt)


@torch.no_grad()
def _assert_equal(reference: Tensor, model: HybridLM, tokens: Tensor) -> None:
    """Logits within 1e-5 of their largest, and within 1e-4."""
    difference = (reference - model(tokens)).abs().max().item()
    assert difference < min(1e-4, 1e-5 * reference.abs().max().item())
