"""The contract over llama.cpp: what the torch runtime says of the same file, from files of ours and of others."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
import torch
from gguf import GGUFWriter

from model import HybridLM, SamplingConfig
from model.errors import CheckpointError, GenerationError, ModelError
from model.exports.gguf import save_gguf
from model.interface import GenerationSettings, ModelFormat, Runtime, open_model
from model.interface.hybrid import HybridInterface
from model.interface.llama_cpp import LlamaInterface
from model.llama_cpp import Build, KeyValueType, LlamaModel
from tests.model.interface.conftest import byte_tokenizer
from tests.support.llama_builds import require_build
from tests.support.trained_models import small_config

PROMPTS = ["def add(", "the quick brown", "", "naïve 漢字 "]
SHORT = GenerationSettings(maximum_new_tokens=8)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mamba-2 hybrid in F32 with its tokenizer inside. Random weights write bytes that are seldom characters."""
    directory = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    model = HybridLM(small_config("mamba2", vocabulary_size=512, maximum_context=1024)).eval()
    byte_tokenizer().save(str(directory / "tokenizer-of-the-model.json"))
    save_gguf(
        model, directory / "model.gguf", "f32", tokenizer=directory / "tokenizer-of-the-model.json", end_of_text=0
    )
    return directory / "model.gguf"


@pytest.fixture(scope="module")
def opened(file: Path) -> LlamaInterface:
    model = open_model(file)
    assert isinstance(model, LlamaInterface)
    return model


def test_a_file_that_a_build_runs_opens_in_llama_cpp(file: Path, opened: LlamaInterface) -> None:
    assert opened.model.build is Build.STOCK
    in_torch = open_model(file, runtime="torch")
    assert isinstance(in_torch, HybridInterface)
    assert opened.info() == in_torch.info()
    assert opened.info().format is ModelFormat.GGUF
    assert opened.info().layers == ["attention", "mamba2", "mamba2", "attention"]
    assert opened.health().ok


def test_scores_are_those_of_the_torch_runtime(file: Path, opened: LlamaInterface) -> None:
    texts = ["hello", "naïve 漢字", "", "the quick brown fox " * 40]
    for ours, theirs in zip(open_model(file, runtime=Runtime.TORCH).score(texts), opened.score(texts), strict=True):
        assert theirs.tokens == ours.tokens and theirs.text_bytes == ours.text_bytes
        assert theirs.log_likelihoods == pytest.approx(ours.log_likelihoods, abs=2e-2)  # keys and values are F16


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_streams_are_what_generate_returns(opened: LlamaInterface, seed: int | None) -> None:
    sampling = SamplingConfig(temperature=0.0 if seed is None else 1.3, seed=seed)
    settings = GenerationSettings(maximum_new_tokens=24, sampling=sampling)
    whole = [completion.text for completion in opened.generate(PROMPTS, settings)]
    pieces = [""] * len(PROMPTS)
    places = []
    for piece in opened.stream_batch(PROMPTS, settings):
        pieces[piece.prompt] += piece.text
        places.append(piece.prompt)
    assert pieces == whole
    assert places != sorted(places)  # side by side
    assert "".join(opened.stream(PROMPTS[0], settings)) == whole[0]


def test_seeds_draw_what_the_torch_runtime_draws(file: Path, opened: LlamaInterface) -> None:
    settings = GenerationSettings(
        maximum_new_tokens=12, sampling=SamplingConfig(temperature=0.8, top_k=20, repetition_penalty=1.3, seed=5)
    )
    theirs = open_model(file, runtime="torch").generate(PROMPTS, settings)
    assert [one.text for one in opened.generate(PROMPTS, settings)] == [one.text for one in theirs]


def test_stop_texts_log_probabilities_and_settings_of_each_prompt(opened: LlamaInterface) -> None:
    free = opened.generate(["abc"], GenerationSettings(maximum_new_tokens=24))[0].text
    stop = free[4]
    settings = [
        GenerationSettings(maximum_new_tokens=24, stop_texts=(stop,), log_probabilities=True),
        GenerationSettings(maximum_new_tokens=3),
    ]
    stopped, short = opened.generate(["abc", "abc"], settings)
    assert stopped.finished and stopped.text == free[: free.index(stop)]
    assert stopped.log_probabilities is not None and len(stopped.log_probabilities) == stopped.new_tokens
    assert all(value < 0 for value in stopped.log_probabilities)
    assert not short.finished and short.new_tokens == 3 and short.log_probabilities is None
    assert "".join(opened.stream("abc", settings[0])) == stopped.text
    with pytest.raises(GenerationError, match="2 settings for 1 prompts"):
        opened.generate(["abc"], settings)


def test_cancelling_ends_the_work(opened: LlamaInterface) -> None:
    asked: list[int] = []

    def cancel() -> bool:
        asked.append(1)
        return len(asked) > 5

    list(opened.stream_batch(PROMPTS, GenerationSettings(maximum_new_tokens=500), cancel))
    assert len(asked) == 6


def test_threads_do_not_disturb_each_other(opened: LlamaInterface) -> None:
    alone = [opened.generate([prompt], SHORT)[0].text for prompt in PROMPTS]
    together: dict[int, str] = {}

    def work(place: int) -> None:
        for _ in range(3):
            together[place] = opened.generate([PROMPTS[place]], SHORT)[0].text

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[place] for place in range(len(PROMPTS))] == alone


def test_requests_beyond_the_context_are_refused(opened: LlamaInterface) -> None:
    with pytest.raises(GenerationError, match="maximum_context of 1024"):
        opened.generate(["x" * 1100], SHORT)
    with pytest.raises(GenerationError, match="maximum_context of 1024"):
        opened.score(["x" * 1100])


def foreign_copy(file: Path, target: Path) -> Path:
    """The same model as another tool would have written it: none of our keys, no tokenizer.json."""
    content = file.read_bytes()
    for ours, theirs in (
        (b"sam2.model_config", b"xyz0.model_config"),
        (b"tokenizer.huggingface", b"tokenizer.unheard_of_"),
    ):
        assert content.count(ours) == 1
        content = content.replace(ours, theirs)
    target.write_bytes(content)
    return target


def test_files_of_other_tools_run_with_llama_cpps_own_tokenizer(
    file: Path, opened: LlamaInterface, tmp_path: Path
) -> None:
    foreign = open_model(foreign_copy(file, tmp_path / "foreign.gguf"))
    assert foreign.info().layers == ["granitehybrid"] * 4
    assert foreign.generate(PROMPTS, SHORT) == opened.generate(PROMPTS, SHORT)
    assert foreign.score(["naïve <|endoftext|>"]) == opened.score(["naïve <|endoftext|>"])


def test_a_file_without_tokenizer_needs_one(file: Path, opened: LlamaInterface, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = HybridLM(small_config("mamba2", vocabulary_size=512, maximum_context=1024)).eval()
    save_gguf(model, tmp_path / "model.gguf", "f32")
    with pytest.raises(CheckpointError, match="no tokenizer"):
        open_model(tmp_path / "model.gguf")
    with_one = open_model(tmp_path / "model.gguf", file.with_name("tokenizer-of-the-model.json"))
    assert with_one.generate(PROMPTS, SHORT) == opened.generate(PROMPTS, SHORT)
    with pytest.raises(GenerationError, match="has no tokenizer"):
        LlamaModel(tmp_path / "model.gguf", Build.STOCK).tokenize("text")


def test_files_llama_cpp_cannot_load_say_why(tmp_path: Path, file: Path) -> None:
    writer = GGUFWriter(tmp_path / "other.gguf", "no-such-architecture")
    writer.add_string("tokenizer.ggml.model", "none")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"cannot load.*no-such-architecture"):
        open_model(tmp_path / "other.gguf")
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:-4096])
    with pytest.raises(CheckpointError, match="cannot load"):
        LlamaModel(tmp_path / "cut.gguf", Build.STOCK)


def test_without_the_patched_build_hgrn2_runs_in_torch_and_says_so(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SAM2_LLAMA_CPP", str(tmp_path))
    with caplog.at_level(logging.INFO, logger="model.interface.opening"):
        assert isinstance(open_model(files / "q8_0.gguf"), HybridInterface)
    assert "needs the patched build" in caplog.text
    with pytest.raises(ModelError, match="make llama"):
        open_model(files / "q8_0.gguf", runtime="llama.cpp")


def test_with_the_patched_build_hgrn2_runs_in_llama_cpp(files: Path) -> None:
    require_build(Build.PATCHED)
    model = open_model(files / "q8_0.gguf")
    assert isinstance(model, LlamaInterface) and model.model.build is Build.PATCHED
    in_torch = open_model(files / "q8_0.gguf", runtime="torch")
    assert model.info() == in_torch.info()
    texts = ["the quick brown fox"]
    assert model.score(texts)[0].log_likelihood == pytest.approx(in_torch.score(texts)[0].log_likelihood, rel=5e-3)


def test_only_gguf_files_open_in_llama_cpp(files: Path) -> None:
    with pytest.raises(CheckpointError, match="no GGUF file"):
        open_model(files / "fp32", runtime="llama.cpp")


def test_a_session_is_one_sequence_with_a_limit(opened: LlamaInterface) -> None:
    model = opened.model
    with model.session(4, KeyValueType.F32) as session:
        first = session.read([5, 6, 7])
        assert session.memory_bytes() > 0
        session.restart()
        assert (session.read([5, 6, 7]) == first).all()
        assert session.performance().prompt_tokens == 6 and session.performance().prompt_tokens_per_second > 0
        with pytest.raises(GenerationError, match="token 512 is outside the vocabulary of 512"):
            session.read([512])
        with pytest.raises(GenerationError, match="empty prompt"):
            session.read([])
    with pytest.raises(GenerationError, match="session is closed"):
        session.read([1])
