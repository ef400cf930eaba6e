"""Models of transformers behind our contract: what they say is what transformers itself says."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from model import GenerationError, SamplingConfig, load
from model.errors import CheckpointError
from model.exports.hugging_face import save_hugging_face
from model.interface import Continuation, GenerationSettings, ModelFormat, ModelInterface, Prompt, Runtime, open_model
from model.interface.hugging_face import HuggingFaceInterface, TransformersCodec
from model.interface.hugging_face_reading import CausalModel, Feeding, RowReader
from tests.model.interface.conftest import SEPARATOR, byte_tokenizer
from tests.support.transformers_reference import transformers

_SIZE = {"vocab_size": 257, "hidden_size": 48, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 0,
         "pad_token_id": None}  # fmt: skip
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96}
#: A transformer with rotation, one with learned positions, a window that forgets, a state fed token by token, a state
#: fed in pieces, and a model whose memory cannot be kept.
_MODELS: dict[str, tuple[Feeding, Callable[[], Any]]] = {
    "llama": (Feeding.PIECES, lambda: transformers.LlamaConfig(**_SIZE, **_HEADS, max_position_embeddings=256)),
    "gpt2": (
        Feeding.PIECES,
        lambda: transformers.GPT2Config(vocab_size=257, n_embd=48, n_layer=2, n_head=4, n_positions=256, bos_token_id=0,
                                        eos_token_id=0),
    ),
    "mistral": (
        Feeding.PIECES,
        lambda: transformers.MistralConfig(**_SIZE, **_HEADS, max_position_embeddings=256, sliding_window=8),
    ),
    "mamba": (Feeding.TOKENS, lambda: transformers.MambaConfig(**_SIZE, state_size=8)),
    "mamba2": (
        Feeding.PIECES,
        lambda: transformers.Mamba2Config(**_SIZE, state_size=8, num_heads=8, head_dim=12, n_groups=1, chunk_size=8),
    ),
    "rwkv": (
        Feeding.WHOLE,
        lambda: transformers.RwkvConfig(**_SIZE, attention_hidden_size=48, context_length=256),
    ),
}  # fmt: skip
SHORT = GenerationSettings(maximum_new_tokens=12)


def _save_tokenizer(directory: Path, **settings: Any) -> None:
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(), bos_token=SEPARATOR, eos_token=SEPARATOR, **settings
    ).save_pretrained(directory)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A directory that `save_pretrained` wrote: weights large enough that every token matters."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            torch.manual_seed(1)
            model = transformers.AutoModelForCausalLM.from_config(_MODELS[name][1]())
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[-1] ** -0.5)
            made[name] = tmp_path_factory.mktemp(name)
            model.save_pretrained(made[name])
            _save_tokenizer(made[name])
        return made[name]

    return of


@pytest.fixture(params=list(_MODELS))
def opened(request: pytest.FixtureRequest, saved: Callable[[str], Path]) -> tuple[HuggingFaceInterface, Any]:
    """Our interface, and the same directory opened by transformers alone."""
    directory = saved(request.param)
    found = open_model(directory)
    assert isinstance(found, HuggingFaceInterface)
    assert found.model.feeding is _MODELS[request.param][0]
    return found, transformers.AutoModelForCausalLM.from_pretrained(directory).eval()


def _copy(directory: Path, target: Path) -> Path:
    return Path(shutil.copytree(directory, target))


def test_greedy_text_is_that_of_transformers(opened: tuple[HuggingFaceInterface, Any]) -> None:
    model, reference = opened
    for prompt in ("def parse(", "", "naïve"):
        ids = torch.tensor([[0, *model.encode(prompt)]])
        written = reference.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        expected = written[0, ids.shape[1] :].tolist()
        (answer,) = model.generate([prompt], SHORT)
        assert answer.text == model.decode(expected)
        assert answer.new_tokens == len(expected) and answer.prompt_tokens == ids.shape[1]


def test_scores_are_the_cross_entropy_of_transformers(opened: tuple[HuggingFaceInterface, Any]) -> None:
    model, reference = opened
    texts = ["some text", "", "a", "the quick brown fox " * 9, "naïve 漢字"]
    for text, score in zip(texts, model.score(texts), strict=True):
        ids = torch.tensor([[0, *model.encode(text)]])
        with torch.no_grad():
            expected = functional.cross_entropy(reference(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none")
        assert score.log_likelihoods == pytest.approx((-expected).tolist(), abs=1e-3)
        assert len(score.tokens) == score.text_bytes == len(text.encode())


def test_continuations_are_scored_as_alone(opened: tuple[HuggingFaceInterface, Any]) -> None:
    """Contexts of one and of several lengths, choices of one and of several tokens, alone and shared."""
    model, _ = opened
    contexts = [[0, 5, 9, 200], [0, 8, 7, 6], [0, 1], list(range(0, 120, 3))]
    choices = [[3], [4], [4, 5, 6], [250, 1], [7] * 9]
    asked = [Continuation(context, choice) for context in contexts for choice in choices]
    asked += [Continuation([0, 77 + n], [n + 1] * (1 + n % 3)) for n in range(5)]
    plain = ModelInterface.score_continuations(model, asked)
    together = model.score_continuations(asked)
    assert [one.log_likelihood for one in together] == pytest.approx([one.log_likelihood for one in plain], abs=1e-3)
    assert [one.greedy for one in together] == [one.greedy for one in plain]
    best = int(np.concatenate(list(model.logits(contexts[0])))[-1].argmax())
    assert model.score_continuations([Continuation(contexts[0], [best])])[0].greedy


def test_small_batches_change_no_score(
    opened: tuple[HuggingFaceInterface, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = opened
    rows = [[3, 7, 9, 40, 2], [5], [8, 8], [], [n * 7 % 257 for n in range(90)], [9] * 31]
    asked = [Continuation(row, [3 + n, 8][: 1 + n % 2]) for n, row in enumerate([rows[0], rows[0], rows[4], rows[5]])]
    at_once = model.score_tokens(rows), model.score_continuations(asked), list(model.logits(rows[4]))
    monkeypatch.setattr("model.interface.hugging_face_reading.TOKENS_AT_ONCE", 8)
    monkeypatch.setattr("model.interface.hugging_face_scoring.TOKENS_AT_ONCE", 8)
    monkeypatch.setattr("model.interface.hugging_face_scoring._LOGITS_AT_ONCE", 257 * 5)
    for found, expected in zip(model.score_tokens(rows), at_once[0], strict=True):
        assert found == pytest.approx(expected, abs=1e-3)
    for one, other in zip(model.score_continuations(asked), at_once[1], strict=True):
        assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-3)
    pieces = list(model.logits(rows[4]))
    assert len(pieces) == (18 if model.model.feeding is Feeding.PIECES else 1)
    np.testing.assert_allclose(np.concatenate(pieces), np.concatenate(at_once[2]), atol=1e-3)
    assert [len(scores) for scores in at_once[0]] == [4, 0, 1, 0, 89, 30]


def test_each_prompt_is_answered_as_if_alone(opened: tuple[HuggingFaceInterface, Any]) -> None:
    """Rows of one length and of others, that end at different times, with every setting their own."""
    model, _ = opened
    prompts: list[Prompt] = ["def parse(", "a longer prompt than that", "import os\n", "", [0, 5, 9]]
    settings = [
        GenerationSettings(
            maximum_new_tokens=most, sampling=SamplingConfig(seed=most, repetition_penalty=1.2), stop_texts=("e",)
        )
        for most in (20, 5, 12, 9, 3)
    ]
    together = model.generate(prompts, settings)
    alone = [model.generate([prompt], one)[0] for prompt, one in zip(prompts, settings, strict=True)]
    assert together == alone
    pieces = [""] * len(prompts)
    for piece in model.stream_batch(prompts, settings):
        pieces[piece.prompt] += piece.text
    assert pieces == [answer.text for answer in together]


def test_says_what_it_is(opened: tuple[HuggingFaceInterface, Any]) -> None:
    model, reference = opened
    info = model.info()
    assert info.format is ModelFormat.HUGGING_FACE
    assert info.parameters == reference.num_parameters() and info.vocabulary_size == 257
    assert len(info.layers) == 2 and info.file_bytes > 4 * info.parameters * 0.9
    assert info.maximum_context == (32_768 if "mamba" in reference.config.model_type else 256)
    assert model.health().ok


def test_a_shared_context_is_read_once(saved: Callable[[str], Path]) -> None:
    model = open_model(saved("llama"))
    assert isinstance(model, HuggingFaceInterface) and model.model.feeding is Feeding.PIECES
    read: list[int] = []
    model.model.model.get_input_embeddings().register_forward_hook(
        lambda _module, inputs, _output: read.append(inputs[0].numel())
    )
    model.score_continuations([Continuation([7] * 50, [choice]) for choice in range(1, 9)])
    assert read == [50]
    read.clear()
    model.score_continuations([Continuation([7] * 50, [choice, 3]) for choice in range(1, 9)])
    assert read == [50, 8]


def test_only_the_logits_asked_for_are_computed(saved: Callable[[str], Path]) -> None:
    model = open_model(saved("llama"))
    assert isinstance(model, HuggingFaceInterface) and model.model.feeding is Feeding.PIECES
    computed: list[int] = []
    model.model.model.lm_head.register_forward_hook(
        lambda _module, inputs, _output: computed.append(inputs[0].shape[1])
    )
    model.generate(["x" * 40], GenerationSettings(maximum_new_tokens=2))
    model.score_continuations([Continuation([7] * 50, [1, 2])])
    assert computed == [1, 1, 2]


def test_a_stop_text_ends_the_text_before_it(saved: Callable[[str], Path]) -> None:
    model = open_model(saved("llama"))
    settings = GenerationSettings(maximum_new_tokens=40, sampling=SamplingConfig(temperature=1.2, seed=5))
    (free,) = model.generate(["abc"], settings)
    stop = next(letter for letter in free.text[5:] if letter.isascii())
    stopping = settings.model_copy(update={"stop_texts": ("never written", stop)})
    (stopped,) = model.generate(["abc"], stopping)
    assert stopped.finished and stopped.text == free.text[: free.text.index(stop)]
    assert stopped.new_tokens < free.new_tokens
    assert "".join(model.stream("abc", stopping)) == stopped.text
    asked = settings.model_copy(update={"log_probabilities": True, "sampling": SamplingConfig(temperature=0.0)})
    (answer,) = model.generate(["abc"], asked)
    last = np.concatenate(list(model.logits([0, *model.encode("abc")])))[-1].astype(np.float64)
    assert answer.log_probabilities is not None
    assert answer.log_probabilities[0] == pytest.approx(last.max() - np.log(np.exp(last).sum()), abs=1e-3)


def test_a_text_ends_with_what_the_generation_config_names(saved: Callable[[str], Path], tmp_path: Path) -> None:
    (free,) = open_model(saved("llama")).generate(["abc"], SHORT)
    assert free.text[1].isascii() and not free.finished
    (ending,) = open_model(saved("llama")).encode(free.text[1])
    directory = _copy(saved("llama"), tmp_path / "model")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [256, ending]}))
    (ended,) = open_model(directory).generate(["abc"], SHORT)
    assert ended.finished and ended.new_tokens == 2
    assert ended.text == free.text[0]


def test_our_own_export_gives_our_own_results(files: Path, tmp_path: Path) -> None:
    """A Granite export, by our code and, forced, by transformers': the same scores and the same drawn text."""
    from model import HybridLM
    from tests.support.trained_models import small_config

    torch.manual_seed(0)
    model = HybridLM(small_config("mamba2", vocabulary_size=257)).eval()
    save_hugging_face(model, tmp_path, tokenizer_json=files / "tokenizer.json")
    ours, theirs = open_model(tmp_path), open_model(tmp_path, runtime=Runtime.TRANSFORMERS)
    assert ours.info().format is ModelFormat.FLOAT32 and theirs.info().format is ModelFormat.HUGGING_FACE
    assert theirs.separator == ours.separator and theirs.info().parameters == ours.info().parameters
    assert theirs.info().maximum_context == ours.info().maximum_context
    settings = GenerationSettings(maximum_new_tokens=20, sampling=SamplingConfig(temperature=0.9, top_p=0.9, seed=3))
    texts = ["def parse(", "while True:", "naïve <|endoftext|>"]
    assert theirs.generate(texts, settings) == ours.generate(texts, settings)
    for found, expected in zip(theirs.score(texts), ours.score(texts), strict=True):
        assert found.tokens == expected.tokens
        assert found.log_likelihoods == pytest.approx(expected.log_likelihoods, abs=1e-3)


def test_a_layout_of_ours_that_we_cannot_represent_opens_in_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.GraniteMoeHybridConfig(
        vocab_size=257, hidden_size=48, num_hidden_layers=2, layer_types=["mamba", "attention"], intermediate_size=64,
        shared_intermediate_size=64, num_local_experts=2, num_experts_per_tok=1, num_attention_heads=4,
        num_key_value_heads=2, mamba_n_heads=4, mamba_d_head=24, mamba_d_state=16, mamba_n_groups=1,
        position_embedding_type="rope", bos_token_id=0, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    transformers.GraniteMoeHybridForCausalLM(config).save_pretrained(tmp_path)
    _save_tokenizer(tmp_path)
    model = open_model(tmp_path)
    assert model.info().format is ModelFormat.HUGGING_FACE
    assert model.info().layers == ["linear_attention", "full_attention"]
    assert model.health().ok


def test_the_separator_is_what_the_model_saw_before_a_text(tmp_path: Path) -> None:
    from tokenizers import processors

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    both = {"bos_token": "<s>", "eos_token": "</s>"}
    begin, end = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    plain = TransformersCodec(transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **both), [9], tmp_path)
    assert plain.separator == end and plain.stop_tokens == {end, 9}
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    opening = TransformersCodec(transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **both), [], tmp_path)
    assert opening.separator == begin and opening.stop_tokens == {begin, end}
    assert opening.encode("<s>a") == [*plain.encode("<"), *plain.encode("s>a")]
    assert len(opening.encode("<s>a")) == 4 and opening.decode([begin, *opening.encode("é"), end]) == "é"
    neither = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer())
    with pytest.raises(CheckpointError, match="neither bos_token nor eos_token"):
        TransformersCodec(neither, [], tmp_path)


def test_requests_it_cannot_serve(saved: Callable[[str], Path]) -> None:
    model = open_model(saved("gpt2"))
    for request in (
        lambda: model.generate(["x" * 250], SHORT),
        lambda: model.score(["x" * 256]),
        lambda: model.score_tokens([[1] * 258]),
        lambda: list(model.logits([1] * 257)),
        lambda: model.score_continuations([Continuation([1] * 256, [1, 2])]),
    ):
        with pytest.raises(GenerationError, match="maximum_context of 256"):
            request()
    for request in (lambda: model.score_tokens([[1, 257]]), lambda: model.generate([[-1]])):
        with pytest.raises(GenerationError, match="outside the model's vocabulary of 257"):
            request()
    with pytest.raises(GenerationError, match="at least one token"):
        model.score_continuations([Continuation([], [1])])
    with pytest.raises(GenerationError, match="no token"):
        model.generate([[]])
    with pytest.raises(GenerationError, match="2 settings for 1 prompts"):
        model.generate(["x"], [SHORT, SHORT])
    assert list(model.stream_batch(["x"], cancel=lambda: True)) == []
    assert len(model.score_tokens([[1] * 257])[0]) == 256
    assert model.score_continuations([]) == [] and model.score_tokens([]) == []


def test_a_damaged_model_is_not_healthy(saved: Callable[[str], Path]) -> None:
    model = open_model(saved("llama"))
    assert isinstance(model, HuggingFaceInterface)
    with torch.no_grad():
        model.model.model.lm_head.weight.fill_(float("nan"))
    assert "not finite" in model.health().problem
    with pytest.raises(GenerationError, match="damaged"):
        model.generate(["x"], SHORT)
    with pytest.raises(GenerationError, match="damaged"):
        model.score(["x"])


def test_pickles_are_not_opened(saved: Callable[[str], Path], tmp_path: Path) -> None:
    directory = _copy(saved("llama"), tmp_path / "model")
    (directory / "model.safetensors").unlink()
    marker = tmp_path / "ran"

    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (marker,)

    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Runs()))
    for runtime in (None, Runtime.TRANSFORMERS):
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin' is a pickle.*convert it"):
            open_model(directory, runtime=runtime)
    assert not marker.exists()


@pytest.mark.parametrize("model_type", ["llama", "their_own"])
def test_code_beside_the_weights_never_runs(saved: Callable[[str], Path], tmp_path: Path, model_type: str) -> None:
    """A known architecture opens with the code of transformers, another not at all."""
    directory = _copy(saved("llama"), tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": model_type, "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.LM"}}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    if model_type == "llama":
        assert open_model(directory).score(["x"]) == open_model(saved("llama")).score(["x"])
    else:
        with pytest.raises(CheckpointError, match=r"code of its own \(auto_map\), which is never run"):
            open_model(directory)
    assert not (tmp_path / "ran").exists()


def test_directories_that_are_not_whole_are_refused(saved: Callable[[str], Path], tmp_path: Path) -> None:
    directory = _copy(saved("llama"), tmp_path / "parent" / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer in .* give tokenizer_path"):
        open_model(directory)
    given = open_model(directory, tokenizer_path=saved("llama") / "tokenizer.json")
    assert given.score(["naïve"]) == open_model(saved("llama")).score(["naïve"])
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer in .* cannot be opened"):
        open_model(directory)
    config = json.loads((directory / "config.json").read_text())
    for changes, problem in (
        ({"num_hidden_layers": 3}, "do not fit config.json"),
        ({"hidden_size": 64}, "do not fit config.json|cannot open"),
        ({"model_type": "t5"}, "no causal language model of model_type 't5'"),
        ({"model_type": "unheard_of"}, "no causal language model of model_type 'unheard_of'"),
    ):
        (directory / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(CheckpointError, match=problem):
            open_model(directory)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match="cannot open"):
        open_model(directory)
    (directory / "model.safetensors").rename(directory / "other.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "absent.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"absent\.safetensors' is missing"):
        open_model(directory)


def test_runtimes_that_do_not_fit_are_refused(saved: Callable[[str], Path], files: Path) -> None:
    with pytest.raises(CheckpointError, match="is no GGUF file"):
        open_model(saved("llama"), runtime=Runtime.LLAMA_CPP)
    with pytest.raises(CheckpointError, match="in no Hugging Face directory"):
        open_model(files / "fp32", runtime=Runtime.TRANSFORMERS)
    with pytest.raises(CheckpointError, match="in no Hugging Face directory"):
        open_model(files / "q8_0.gguf", runtime=Runtime.TRANSFORMERS)
    assert load(files / "fp32").config.vocabulary_size == 512


def test_sharded_weights_open(saved: Callable[[str], Path], tmp_path: Path) -> None:
    transformers.AutoModelForCausalLM.from_pretrained(saved("llama")).save_pretrained(tmp_path, max_shard_size="60KB")
    _save_tokenizer(tmp_path)
    (tmp_path / "consolidated.safetensors").write_bytes(b"a copy in another layout")
    found, whole = open_model(tmp_path), open_model(saved("llama"))
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert found.score(["abc"]) == whole.score(["abc"])
    assert abs(found.info().file_bytes - whole.info().file_bytes) < 10_000


def test_a_model_of_the_hub_that_is_not_here_says_so() -> None:
    with pytest.raises(CheckpointError, match=r"absent/nothing' is not in the cache.*HF_HUB_OFFLINE=0"):
        open_model("hf://absent/nothing")
    for address in ("hf://nothing", "hf://a/b/c", "hf://a/b@"):
        with pytest.raises(CheckpointError, match="is no model on the Hub"):
            open_model(address)


@pytest.mark.parametrize("address", ["hf://org/name@v1.0", Path("hf://org/name@v1.0")])
def test_a_model_of_the_hub_is_fetched_without_code_or_pickles(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, address: str | Path
) -> None:
    from huggingface_hub.utils import filter_repo_objects

    offered = [
        "config.json", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
        "tokenizer.json", "tokenizer_config.json", "merges.txt", "generation_config.json", "pytorch_model.bin",
        "modeling_x.py", "consolidated.safetensors", "onnx/model.safetensors", "training_args.bin", "README.md",
    ]  # fmt: skip
    fetched: list[str] = []

    def snapshot(name: str, *, revision: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert (name, revision) == ("org/name", "v1.0")
        fetched.extend(filter_repo_objects(offered, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
        return str(saved("llama"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert open_model(address).score(["abc"]) == open_model(saved("llama")).score(["abc"])
    assert fetched == offered[:8]


def test_a_reader_goes_on_with_the_rows_it_is_told(opened: tuple[HuggingFaceInterface, Any]) -> None:
    model, reference = opened
    rows = torch.tensor([[1, 2, 3, 4, 5, 6], [9, 8, 7, 6, 5, 4], [1, 1, 2, 2, 3, 3]])
    reader = RowReader(model.model)
    reader.read(rows[:, :3])
    reader.select([2, 0, 2])
    found = reader.read_all(rows[[2, 0, 2], 3:])
    with torch.no_grad():
        expected = reference(input_ids=rows[[2, 0, 2]]).logits[:, 3:]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_bfloat16_models_can_still_be_fed_in_pieces(saved: Callable[[str], Path]) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(saved("llama"), dtype=torch.bfloat16).eval()
    assert CausalModel(model).feeding is Feeding.PIECES
