"""transformers gives the same results with our files, and we with files its own models wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from model import HybridLM, ModelConfig, generate, load, load_config, preset
from model.exports.hugging_face import load_hugging_face, save_hugging_face
from tests.support.trained_models import small_config, text, trained_model
from tests.support.transformers_reference import (
    greedy_tokens,
    open_causal_model,
    reference_logits,
    transformers,
)

_QWEN = {"query_key_norm": True, "gated_deltanet_value_expansion": 1, "tie_embeddings": False}


def _assert_same_logits(model: HybridLM, reference: Any, tokens: Tensor) -> None:
    """Within 1e-5 of the largest logit, and within 1e-4."""
    expected = reference_logits(reference, tokens)
    with torch.no_grad():
        difference = (expected - model(tokens)).abs().max().item()
    assert difference < min(1e-4, 1e-5 * expected.abs().max().item())


@torch.no_grad()
def _away_from_initialisation(model: torch.nn.Module) -> None:
    """Norms, biases and decays that differ from channel to channel, matrices that keep signals their size."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
        elif "conv1d" not in name:
            parameter.normal_(std=parameter.shape[1] ** -0.5)


@pytest.mark.parametrize(("family", "changes"), [("mamba2", {}), ("gated_deltanet", _QWEN)])
def test_a_trained_model_is_the_same_in_transformers(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = trained_model(family, **changes)
    save_hugging_face(model, tmp_path)
    reference = open_causal_model(tmp_path)
    _assert_same_logits(model, reference, text()[100:300].view(2, 100))
    prompt = text()[100:140].view(1, -1)
    assert greedy_tokens(reference, prompt, 20).tolist() == generate(model, prompt, 20)

    read = load_hugging_face(tmp_path)
    assert read.config.mixer_kinds == model.config.mixer_kinds
    assert read.config.tie_embeddings is model.config.tie_embeddings
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, read.state_dict()[name]), name


@pytest.mark.parametrize(
    "config",
    [
        preset("miniature").changed(pattern=("attention",), layer_count=2, norm_eps=1e-5),
        preset("miniature").changed(pattern=("attention",), layer_count=2, query_key_norm=True, rope_theta=1e6),
        small_config("mamba2").changed(layer_kinds=("mamba2",) * 2, layer_count=2, mamba2_groups=2, mamba2_expansion=1),
        small_config("gated_deltanet").changed(pattern=("gated_deltanet",), layer_count=2, query_key_norm=True),
    ],
    ids=["attention-granite", "attention-qwen", "mamba2-only", "gated-deltanet-only"],
)
def test_models_without_one_of_the_mixers(config: ModelConfig, tmp_path: Path) -> None:
    model = HybridLM(config).eval()
    _away_from_initialisation(model)
    save_hugging_face(model, tmp_path)
    _assert_same_logits(model, open_causal_model(tmp_path), text()[:70].view(1, -1))


def _granite(**fields: Any) -> Any:
    """Dense Granite 4 in small, with its constants."""
    config = transformers.GraniteMoeHybridConfig(
        vocab_size=256, hidden_size=48, num_hidden_layers=3, layer_types=["mamba", "attention", "mamba"],
        intermediate_size=64, shared_intermediate_size=64, num_local_experts=0, num_attention_heads=4,
        num_key_value_heads=2, mamba_n_heads=4, mamba_d_head=24, mamba_d_state=16, mamba_n_groups=2,
        position_embedding_type="rope", rope_parameters={"rope_type": "default", "rope_theta": 5e5},
        embedding_multiplier=12, residual_multiplier=0.22, attention_multiplier=0.015625, logits_scaling=8,
        pad_token_id=None, eos_token_id=None, bos_token_id=None, **fields,
    )  # fmt: skip
    return transformers.GraniteMoeHybridForCausalLM(config)


def _qwen(**fields: Any) -> Any:
    """Qwen3.5 in small, values twice as large as keys, gates of its attention open halfway for every input."""
    config = transformers.Qwen3_5TextConfig(
        vocab_size=256, hidden_size=48, num_hidden_layers=3,
        layer_types=["linear_attention", "full_attention", "linear_attention"], intermediate_size=64,
        num_attention_heads=4, num_key_value_heads=1, head_dim=12, linear_key_head_dim=8, linear_value_head_dim=16,
        linear_num_key_heads=3, linear_num_value_heads=3, eos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 1.0}, **fields,
    )  # fmt: skip
    return transformers.Qwen3_5ForCausalLM(config)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("make", [_granite, _qwen])
def test_a_model_that_transformers_saved_is_the_same_here(make: Any, tied: bool, tmp_path: Path) -> None:
    theirs = make(tie_word_embeddings=tied).eval()
    _away_from_initialisation(theirs)
    if make is _qwen:
        with torch.no_grad():
            theirs.model.layers[1].self_attn.q_proj.weight.unflatten(0, (4, 2, 12))[:, 1] = 0
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    ours = load(tmp_path)
    assert load_config(tmp_path) == ours.config
    assert ours.config.tie_embeddings is tied
    _assert_same_logits(ours, theirs, text()[:140].view(2, -1))
    prompt = text()[:33].view(1, -1)
    assert generate(ours, prompt, 8) == greedy_tokens(theirs, prompt, 8).tolist()


def test_bfloat16_files_of_transformers(tmp_path: Path) -> None:
    theirs = _granite()
    _away_from_initialisation(theirs)
    theirs.to(torch.bfloat16).save_pretrained(tmp_path)
    ours = load_hugging_face(tmp_path)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    # Rounded weights in float32 on both sides: the same model, where bfloat16 arithmetic would blur it.
    _assert_same_logits(ours, theirs.float().eval(), text()[:70].view(1, -1))


def test_a_query_gate_of_qwen_is_refused(tmp_path: Path) -> None:
    _qwen().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"layers\.1\.self_attn\.q_proj\.weight has an output gate"):
        load_hugging_face(tmp_path)


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog's 1234 tails"] * 9, trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize(
    "config",
    [small_config("hgrn2"), small_config("mamba2"), small_config("gated_deltanet", query_key_norm=True)],
    ids=["hgrn2", "granitemoehybrid", "qwen3_5_text"],
)
def test_auto_tokenizer_encodes_as_the_tokenizer_does(
    config: ModelConfig, tokenizer_json: Path, tmp_path: Path
) -> None:
    config = config.changed(vocabulary_size=320)
    save_hugging_face(HybridLM(config), tmp_path, tokenizer_json)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    plain = Tokenizer.from_file(str(tokenizer_json))
    for example in ("the  quick\n\tfox's 1,234 tails", "naïve 测试 🦊 don't DON'T", "a<|endoftext|>b", " lead", ""):
        encoded = tokenizer(example)["input_ids"]
        assert encoded == plain.encode(example).ids
        assert tokenizer.decode(encoded) == plain.decode(encoded, skip_special_tokens=False) == example
    separator = plain.token_to_id("<|endoftext|>")
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == separator
    assert tokenizer.model_max_length == config.maximum_context
    for file in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / file).read_text())["eos_token_id"] == separator
    assert transformers.GenerationConfig.from_pretrained(tmp_path).eos_token_id == separator


def test_without_a_tokenizer_no_token_ends_the_text(tmp_path: Path) -> None:
    """Granite's own default would stop at token 2."""
    save_hugging_face(HybridLM(small_config("mamba2")), tmp_path)
    reference = open_causal_model(tmp_path)
    assert reference.config.eos_token_id is None
    assert reference.generation_config.eos_token_id is None
    assert not (tmp_path / "tokenizer_config.json").exists()
