"""Our files in llama.cpp: the same logits, the same text, the same tokens, and a quantization that is its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from gguf import GGUFReader
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from model import HybridLM, SamplingConfig, generate
from model.exports.gguf import GGUFFormat, load_gguf, save_gguf
from model.llama_cpp import Build, KeyValueType, LlamaModel, quantize_file
from tests.support.llama_builds import FAMILY_BUILDS, FAMILY_CHANGES, require_build
from tests.support.trained_models import small_config, text, trained_model

Array = npt.NDArray[np.float32]
#: Text the models were trained on; perplexities are compared, not judged.
PASSAGE = slice(4000, 4600)


@pytest.fixture(scope="module", params=sorted(FAMILY_BUILDS))
def family(request: pytest.FixtureRequest) -> str:
    require_build(FAMILY_BUILDS[request.param])
    return str(request.param)


@pytest.fixture(scope="module")
def trained(family: str) -> HybridLM:
    torch.set_num_threads(1)
    return trained_model(family, "miniature-256", **FAMILY_CHANGES[family])


@pytest.fixture(scope="module")
def opened(family: str, trained: HybridLM, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LlamaModel]:
    """The trained model in llama.cpp, in a format."""
    directory = tmp_path_factory.mktemp("gguf")

    def save_and_open(file_format: str) -> LlamaModel:
        path = directory / f"{file_format}.gguf"
        if not path.exists():
            save_gguf(trained, path, file_format)
        return LlamaModel(path, FAMILY_BUILDS[family], threads=1)

    return save_and_open


def passage() -> list[int]:
    tokens: list[int] = text()[PASSAGE].tolist()
    return tokens


def logits_of(model: HybridLM, tokens: list[int]) -> Array:
    with torch.inference_mode():
        logits: Array = model(torch.tensor([tokens]))[0].numpy()
    return logits


def loss(logits: Array, tokens: list[int]) -> float:
    """Nats a token, the last one left out."""
    logarithms = torch.from_numpy(logits).log_softmax(dim=-1)[:-1]
    return -float(logarithms.gather(1, torch.tensor(tokens[1:])[:, None]).mean())


def divergence(reference: Array, other: Array) -> float:
    """KL(reference || other) in nats a token."""
    theirs, ours = (torch.from_numpy(part).double().log_softmax(dim=-1) for part in (reference, other))
    return float((theirs.exp() * (theirs - ours)).sum(dim=-1).mean())


def test_f32_gives_the_same_logits_at_every_position(trained: HybridLM, opened: Callable[[str], LlamaModel]) -> None:
    tokens = passage()
    ours, theirs = logits_of(trained, tokens), opened("f32").logits(tokens, KeyValueType.F32)
    assert np.abs(ours).max() > 5  # a trained model is sure of something
    assert np.abs(ours - theirs).max() <= 1e-4


def test_f32_writes_the_same_text(trained: HybridLM, opened: Callable[[str], LlamaModel]) -> None:
    prompts = [passage()[start : start + 50] for start in (0, 130, 260, 390)]
    theirs = [opened("f32").generate(prompt, 20, key_values=KeyValueType.F32) for prompt in prompts]
    assert theirs == generate(trained, prompts, 20)
    assert len({tuple(tokens) for tokens in theirs}) > 1


def test_token_by_token_equals_at_once(opened: Callable[[str], LlamaModel]) -> None:
    tokens = passage()[:150]
    model = opened("f32")
    at_once = model.logits(tokens, KeyValueType.F32)
    with model.session(len(tokens), KeyValueType.F32) as session:
        singly = np.stack([session.read([token]) for token in tokens])
        session.restart()
        parts = np.concatenate([*session.read_all(tokens[:70]), *session.read_all(tokens[70:])])
    np.testing.assert_allclose(singly, at_once, atol=1e-4)
    np.testing.assert_allclose(parts, at_once, atol=1e-4)


@pytest.mark.parametrize(
    ("file_format", "largest_divergence", "largest_loss"),
    [(GGUFFormat.F16, 1e-5, 1e-4), (GGUFFormat.Q8_0, 1e-3, 2e-3), (GGUFFormat.Q4_K_M, 3e-2, 3e-2)],
)
def test_quantized_files_agree_with_our_reader_and_the_original(
    trained: HybridLM,
    opened: Callable[[str], LlamaModel],
    file_format: GGUFFormat,
    largest_divergence: float,
    largest_loss: float,
) -> None:
    tokens = passage()
    model = opened(file_format)
    original, ours, theirs = (
        logits_of(trained, tokens),
        logits_of(load_gguf(model.path), tokens),
        model.logits(tokens),
    )
    assert 0 < divergence(original, theirs) < largest_divergence
    assert loss(theirs, tokens) < loss(original, tokens) + largest_loss
    perplexities = [math.exp(loss(logits, tokens)) for logits in (ours, theirs)]
    assert perplexities[0] == pytest.approx(perplexities[1], rel=0.005)
    written = model.generate(tokens[:50], 20, SamplingConfig(seed=1))
    assert len(written) == 20 and len(set(written)) > 3


@pytest.mark.parametrize("file_format", [GGUFFormat.F16, GGUFFormat.Q8_0, GGUFFormat.Q4_K_M])
def test_our_files_are_byte_for_byte_llama_cpps_own_quantization(
    opened: Callable[[str], LlamaModel], tmp_path: Path, file_format: GGUFFormat
) -> None:
    require_build(Build.PATCHED)  # the only one with the quantizer
    quantize_file(opened("f32").path, tmp_path / "theirs.gguf", file_format.file_type)
    theirs, ours = (
        {tensor.name: tensor for tensor in GGUFReader(path).tensors}
        for path in (tmp_path / "theirs.gguf", opened(file_format).path)
    )
    assert {name: tensor.tensor_type for name, tensor in theirs.items()} == {
        name: tensor.tensor_type for name, tensor in ours.items()
    }
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(tensor.data.ravel(), ours[name].data.ravel())


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("hgrn2", {"short_convolution": False}),
        ("hgrn2", {"tie_embeddings": False, "query_key_norm": True, "rope_theta": 1e6}),
        ("hgrn2", {"layer_kinds": ("attention", "hgrn2", "attention", "hgrn2"), "key_value_heads": 1}),
        ("mamba2", {"mamba2_groups": 2, "tie_embeddings": False, "norm_eps": 1e-6}),
        ("mamba2", {"layer_kinds": ("mamba2", "attention", "mamba2", "mamba2"), "rope_theta": 1e6}),
        ("mamba2", {"layer_kinds": ("mamba2", "mamba2", "mamba2", "attention"), "key_value_heads": 4}),
        ("gated_deltanet", {"tie_embeddings": False, "rope_theta": 1e6, "gated_deltanet_heads": 2}),
        ("gated_deltanet", {"layer_kinds": ("attention", "gated_deltanet", "gated_deltanet", "attention")}),
        ("gated_deltanet", {"attention_heads": 2, "key_value_heads": 1}),
    ],
    ids=str,
)
def test_every_variant_of_the_architectures_is_computed_alike(
    family: str, changes: dict[str, object], tmp_path: Path
) -> None:
    require_build(FAMILY_BUILDS[family])
    torch.manual_seed(0)
    model = HybridLM(small_config(family).changed(**FAMILY_CHANGES[family] | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_gguf(model, tmp_path / "model.gguf", "f32")
    tokens = passage()[:130]
    theirs = LlamaModel(tmp_path / "model.gguf", FAMILY_BUILDS[family], threads=1).logits(tokens, KeyValueType.F32)
    np.testing.assert_allclose(theirs, logits_of(model, tokens), atol=2e-4)


_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "starcoder": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}
STRINGS = [
    "Hello world", " leading", "trailing ", "a  b   c", "tabs\t\tand\n\nnewlines \n  x", "don't I'LL we've", "",
    "   ", "naïve café 漢字 日本語", "emoji 🎉👩‍👩‍👧 x", "1234567 3.14 1,000", "\u00a0nbsp\u2003em", "\r\n\r\nx",
    "e\u0301 combining", "عربى हिन्दी", "\x00\x01", "a\u200bb", "Ⅷ ² ½ ٣", "text that spells <|endoftext|>", " . , !",
]  # fmt: skip


@pytest.mark.parametrize("split", SPLITS)
def test_text_becomes_the_same_tokens(split: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = SPLITS[split], decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|user|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([bytes(text().tolist()).decode()], trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = HybridLM(small_config("mamba2", vocabulary_size=640))
    save_gguf(model, tmp_path / "model.gguf", "f16", tokenizer=tmp_path / "tokenizer.json", end_of_text=0)
    theirs = LlamaModel(tmp_path / "model.gguf", Build.STOCK)
    assert theirs.metadata("tokenizer.ggml.pre") == split
    assert theirs.end_of_text == theirs.beginning_of_text == 0 and theirs.ends_generation(0)
    special = "a<|user|>b <|endoftext|>c"
    assert theirs.tokenize(special, special=True) == tokenizer.encode(special).ids
    assert theirs.detokenize(tokenizer.encode(special).ids) == b"ab c"
    tokenizer.encode_special_tokens = True
    for string in STRINGS:
        ids = tokenizer.encode(string, add_special_tokens=False).ids
        assert theirs.tokenize(string) == ids, string
        assert theirs.detokenize(ids) == string.encode()
        assert [theirs.spelling(token) for token in ids] == [tokenizer.id_to_token(token) for token in ids]
