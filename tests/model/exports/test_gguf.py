"""GGUF: exact in F32, as close as ggml's blocks allow elsewhere, and plain about what it cannot hold."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, LlamaFileType
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from model import CheckpointError, ConfigurationError, HybridLM, ModelConfig, preset
from model.exports.gguf import GGUFFormat, load_gguf, quantize, read_tokenizer_json, save_gguf, tensor_types
from model.exports.gguf.ggml import block_size
from model.exports.gguf.mix import choose_types
from model.llama_cpp.library import Build, library_path

Q4, Q6, Q8, F32 = (GGMLQuantizationType[name] for name in ("Q4_K", "Q6_K", "Q8_0", "F32"))


def random_model(config: ModelConfig) -> HybridLM:
    torch.manual_seed(0)
    model = HybridLM(config).eval()
    with torch.no_grad():
        model.lower_bounds.normal_()
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def model() -> HybridLM:
    return random_model(preset("miniature-256"))


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(0, 256, (2, 70), generator=torch.Generator().manual_seed(1))


def logits(model: HybridLM, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(tokens)


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False}, {"short_convolution": False}], ids=str)
def test_f32_gives_exactly_the_same_logits(changes: dict[str, bool], tokens: torch.Tensor, tmp_path: Path) -> None:
    model = random_model(preset("miniature").model_copy(update=changes))
    save_gguf(model, tmp_path / "model.gguf", "f32")
    assert torch.equal(logits(load_gguf(tmp_path / "model.gguf"), tokens), logits(model, tokens))


@pytest.mark.parametrize(
    ("file_format", "kl_limit"), [(GGUFFormat.F16, 1e-6), (GGUFFormat.Q8_0, 1e-3), (GGUFFormat.Q4_K_M, 1e-1)]
)
def test_smaller_formats_stay_close(
    model: HybridLM, tokens: torch.Tensor, tmp_path: Path, file_format: GGUFFormat, kl_limit: float
) -> None:
    path = tmp_path / "model.gguf"
    save_gguf(model, path, file_format)
    theirs, ours = (logits(part, tokens).log_softmax(-1) for part in (model, load_gguf(path)))
    kl = float((theirs.exp() * (theirs - ours)).sum(-1).mean())
    assert 0 < kl < kl_limit


def test_stored_values_are_ggmls_and_within_its_error(model: HybridLM, tmp_path: Path) -> None:
    types = save_gguf(model, tmp_path / "model.gguf", "q4_k_m")
    weights = {
        "blk.1.ffn_up.weight": "layers.1.mlp.up_proj.weight",
        "blk.2.attn_v.weight": "layers.2.attn.i_proj.weight",
    }
    limits = {Q4: 0.09, Q6: 0.025}
    restored = load_gguf(tmp_path / "model.gguf").state_dict()
    for tensor in GGUFReader(tmp_path / "model.gguf").tensors:
        assert tensor.tensor_type == types[tensor.name]
        if tensor.name in weights:
            original = model.state_dict()[weights[tensor.name]].numpy()
            stored = dequantize(tensor.data, tensor.tensor_type)
            np.testing.assert_array_equal(stored, restored[weights[tensor.name]].numpy())
            error = np.linalg.norm(stored - original) / np.linalg.norm(original)
            assert error < limits[tensor.tensor_type]


def test_mix_is_llamacpps_for_twelve_layers() -> None:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (512, 256), "output_norm.weight": (256,)}
    for layer in range(12):
        for name in ("attn_q", "attn_v", "ffn_down", "ffn_up"):
            shapes[f"blk.{layer}.{name}.weight"] = (256, 256)
        shapes[f"blk.{layer}.ssm_conv1d_q.weight"] = (256, 4)
        shapes[f"blk.{layer}.time_mix_decay.weight"] = (256,)
    types = choose_types(shapes, GGUFFormat.Q4_K_M)
    # use_more_bits(i, 12): i < 1, i >= 10, (i - 1) % 3 == 2.
    for role in ("attn_v", "ffn_down"):
        assert [layer for layer in range(12) if types[f"blk.{layer}.{role}.weight"] is Q6] == [0, 3, 6, 9, 10, 11]
    assert {types[f"blk.{layer}.ffn_up.weight"] for layer in range(12)} == {Q4}
    assert types["token_embd.weight"] is Q6  # tied: it is the output too
    assert types["blk.0.ssm_conv1d_q.weight"] is types["blk.0.time_mix_decay.weight"] is F32
    untied = choose_types(shapes | {"output.weight": (512, 256)}, GGUFFormat.Q4_K_M)
    assert untied["output.weight"] is Q6
    assert untied["token_embd.weight"] is Q4


def test_q8_0_stores_every_matrix_in_it(model: HybridLM) -> None:
    types = tensor_types(model, GGUFFormat.Q8_0)
    matrices = {name for name in types if "norm" not in name and "conv1d" not in name and "decay" not in name}
    assert {types[name] for name in matrices} == {Q8}
    assert {types[name] for name in types.keys() - matrices} == {F32}


def test_rows_that_do_not_fit_name_the_tensor_and_the_fix(tmp_path: Path) -> None:
    model = random_model(preset("miniature"))
    with pytest.raises(ConfigurationError, match=r"token_embd\.weight.*64 weights.*multiple of 256.*f16"):
        save_gguf(model, tmp_path / "model.gguf", "q4_k_m")
    assert not (tmp_path / "model.gguf").exists()
    with pytest.raises(ConfigurationError, match="multiple of 256"):
        quantize(np.zeros((2, 100), np.float32), Q4)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 300),
    blocks=st.integers(1, 3),
    kind=st.sampled_from([Q4, Q6, Q8]),
    threads=st.integers(1, 7),
    seed=st.integers(0, 1000),
)
def test_threads_do_not_change_a_bit(
    rows: int, blocks: int, kind: GGMLQuantizationType, threads: int, seed: int
) -> None:
    weights = np.random.default_rng(seed).normal(size=(rows, blocks * block_size(kind))).astype(np.float32)
    np.testing.assert_array_equal(quantize(weights, kind, threads), quantize(weights, kind, 1))
    error = np.abs(dequantize(quantize(weights, kind), kind) - weights).max()
    assert error < {Q4: 0.6, Q6: 0.2, Q8: 0.05}[kind]


def byte_level_tokenizer(path: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["some words and some more words"], trainer)
    tokenizer.save(str(path))
    return tokenizer


def test_metadata_is_what_the_patched_runtime_reads(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer(tmp_path / "tokenizer.json")
    model = random_model(preset("miniature").model_copy(update={"vocabulary_size": 320}))
    path = tmp_path / "model.gguf"
    save_gguf(model, path, "q8_0", tokenizer=tmp_path / "tokenizer.json", end_of_text=0)
    reader = GGUFReader(path)

    def value(key: str) -> object:
        field = reader.get_field(key)
        assert field is not None, key
        return field.contents()

    assert value("general.architecture") == "hgrn2"
    assert value("general.file_type") == LlamaFileType.MOSTLY_Q8_0
    assert "stock llama.cpp" in str(value("general.description"))
    assert value("hgrn2.attention.head_count_kv") == [0, 0, 0, 2]
    assert value("hgrn2.wkv.head_size") == 32
    assert value("hgrn2.ssm.conv_kernel") == 4
    assert value("hgrn2.attention.group_norm_epsilon") == pytest.approx(1e-5)
    assert value("tokenizer.ggml.model") == "gpt2"
    assert value("tokenizer.ggml.pre") == "gpt-2"
    assert value("tokenizer.ggml.eos_token_id") == 0
    stored = value("tokenizer.ggml.tokens")
    assert isinstance(stored, list)
    assert len(stored) == 320
    assert stored[0] == "<|endoftext|>"
    restored = Tokenizer.from_str(read_tokenizer_json(path) or "")
    assert restored.encode("some words").ids == tokenizer.encode("some words").ids


def test_ggmls_own_parser_reads_the_file(model: HybridLM, tmp_path: Path) -> None:
    """The prebuilt runtime parses every key and tensor; only the architecture is unknown to it."""

    class Parameters(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))

    path = tmp_path / "model.gguf"
    types = save_gguf(model, path, "q4_k_m")
    library = ctypes.CDLL(str(library_path(Build.STOCK)))
    library.gguf_init_from_file.restype = ctypes.c_void_p
    library.gguf_init_from_file.argtypes = [ctypes.c_char_p, Parameters]
    library.gguf_get_n_tensors.restype = ctypes.c_int64
    library.gguf_get_n_tensors.argtypes = [ctypes.c_void_p]
    library.gguf_find_key.restype = ctypes.c_int64
    library.gguf_find_key.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.gguf_free.argtypes = [ctypes.c_void_p]
    parsed = library.gguf_init_from_file(str(path).encode(), Parameters(True, None))
    assert parsed
    assert library.gguf_get_n_tensors(parsed) == len(types)
    assert library.gguf_find_key(parsed, b"hgrn2.wkv.head_size") >= 0
    library.gguf_free(parsed)


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer = byte_level_tokenizer(path)
    with pytest.raises(ConfigurationError, match="vocabulary_size is 256"):
        save_gguf(random_model(preset("miniature")), tmp_path / "model.gguf", "f16", tokenizer=path)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(path))
    larger = random_model(preset("miniature").model_copy(update={"vocabulary_size": 320}))
    with pytest.raises(ConfigurationError, match="WhitespaceSplit"):
        save_gguf(larger, tmp_path / "model.gguf", "f16", tokenizer=path)


def test_foreign_broken_and_contradictory_files_are_refused_by_name(tmp_path: Path) -> None:
    foreign = tmp_path / "llama.gguf"
    writer = GGUFWriter(foreign, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"llama\.gguf.*architecture 'llama'.*'hgrn2'"):
        load_gguf(foreign)
    (tmp_path / "text.gguf").write_text("not a model at all, but long enough to have a header")
    with pytest.raises(CheckpointError, match="not a readable GGUF"):
        load_gguf(tmp_path / "text.gguf")
    with pytest.raises(CheckpointError, match="no GGUF file"):
        load_gguf(tmp_path / "absent.gguf")


def test_decays_that_contradict_the_lower_bounds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    save_gguf(random_model(preset("miniature")), path, "f32")
    tensor = next(part for part in GGUFReader(path).tensors if part.name == "blk.1.time_mix_decay.weight")
    with path.open("r+b") as stream:
        stream.seek(int(tensor.data_offset))
        stream.write(np.full(64, 0.5, np.float32).tobytes())
    with pytest.raises(CheckpointError, match=r"blk\.1\.time_mix_decay\.weight.*contradicts"):
        load_gguf(path)


def test_only_layers_the_architecture_knows(tmp_path: Path) -> None:
    config = preset("miniature").changed(pattern=("attention",))
    attention = HybridLM(config)
    with pytest.raises(ConfigurationError, match="no recurrent layer"):
        save_gguf(attention, tmp_path / "model.gguf", "f16")


def test_the_model_configuration_survives(model: HybridLM, tmp_path: Path) -> None:
    save_gguf(model, tmp_path / "model.gguf", "f16")
    assert load_gguf(tmp_path / "model.gguf").config == model.config
    field = GGUFReader(tmp_path / "model.gguf").get_field("sam2.model_config")
    assert field is not None
    assert json.loads(str(field.contents()))["width"] == 256
