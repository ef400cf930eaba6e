"""The contract holds for every format: the same text in, nearly the same text and scores out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from model import GenerationError, SamplingConfig, load
from model.errors import CheckpointError
from model.exports.hugging_face import save_hugging_face
from model.interface import Completion, GenerationSettings, ModelFormat, ModelInterface, open_model

PATHS = {
    ModelFormat.FLOAT32: "fp32",
    ModelFormat.INT8: "int8",
    ModelFormat.INT4: "int4",
    ModelFormat.GGUF: "q8_0.gguf",
}
SHORT = GenerationSettings(maximum_new_tokens=6)


@pytest.fixture(scope="session", params=list(PATHS), ids=str)
def opened(request: pytest.FixtureRequest, files: Path) -> tuple[ModelFormat, ModelInterface]:
    return request.param, open_model(files / PATHS[request.param])


def test_says_what_it_is(opened: tuple[ModelFormat, ModelInterface]) -> None:
    model_format, model = opened
    info = model.info()
    assert info.format is model_format
    assert info.vocabulary_size == 512 and info.maximum_context == 1024
    assert info.layers == ["hgrn2", "hgrn2", "hgrn2", "attention"]
    assert model.health().ok


def test_answers_in_the_order_of_the_prompts(opened: tuple[ModelFormat, ModelInterface]) -> None:
    _, model = opened
    prompts = ["abc", "a longer prompt", "xyz", ""]
    together = model.generate(prompts, SHORT)
    assert [answer.prompt_tokens for answer in together] == [4, 16, 4, 1]
    alone = [model.generate([prompt], SHORT)[0] for prompt in prompts]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert all(isinstance(answer, Completion) and answer.new_tokens <= 6 for answer in together)


@pytest.mark.parametrize("seed", range(3))
def test_streamed_pieces_are_what_generate_returns(opened: tuple[ModelFormat, ModelInterface], seed: int) -> None:
    """Random weights write bytes that are seldom whole characters: the hard case for streaming."""
    _, model = opened
    settings = GenerationSettings(maximum_new_tokens=24, sampling=SamplingConfig(temperature=1.5, seed=seed))
    assert "".join(model.stream("naïve 漢字 ", settings)) == model.generate(["naïve 漢字 "], settings)[0].text


def test_pieces_of_several_prompts_come_side_by_side(opened: tuple[ModelFormat, ModelInterface]) -> None:
    _, model = opened
    prompts = ["abc", "a longer prompt", "naïve 漢字 "]
    settings = [
        GenerationSettings(maximum_new_tokens=most, sampling=SamplingConfig(temperature=1.5, seed=most))
        for most in (20, 5, 12)
    ]
    answers = model.generate(prompts, settings)
    assert [answer.new_tokens for answer in answers] == [20, 5, 12]
    pieces = list(model.stream_batch(prompts, settings))
    for row, answer in enumerate(answers):
        assert "".join(piece.text for piece in pieces if piece.prompt == row) == answer.text
    assert [piece.prompt for piece in pieces] != sorted(piece.prompt for piece in pieces)
    alone = [model.generate([prompt], one)[0] for prompt, one in zip(prompts, settings, strict=True)]
    assert [answer.text for answer in answers] == [answer.text for answer in alone]


def test_a_stop_text_ends_the_text_before_it(files: Path) -> None:
    model = open_model(files / "fp32")
    settings = GenerationSettings(maximum_new_tokens=40, sampling=SamplingConfig(temperature=1.2, seed=5))
    (free,) = model.generate(["abc"], settings)
    stop = next(letter for letter in free.text[5:] if letter.isascii())
    assert not free.finished
    stopping = settings.model_copy(update={"stop_texts": ("never written", stop)})
    (stopped,) = model.generate(["abc"], stopping)
    assert stopped.finished
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.new_tokens < free.new_tokens
    assert "".join(model.stream("abc", stopping)) == stopped.text


def test_log_probabilities_are_those_of_the_score(files: Path) -> None:
    model = open_model(files / "fp32")
    prompt, settings = "the quick brown ", GenerationSettings(maximum_new_tokens=5, log_probabilities=True)
    (answer,) = model.generate([prompt], settings)
    assert answer.log_probabilities is not None and len(answer.log_probabilities) == 5
    with torch.no_grad():
        ids = [0, *model.tokenizer.encode(prompt).ids]  # type: ignore[attr-defined]
        first = model.model(torch.tensor([ids]))[0, -1].log_softmax(-1).max()  # type: ignore[attr-defined]
    assert answer.log_probabilities[0] == pytest.approx(float(first), abs=1e-4)
    assert model.generate([prompt], SHORT)[0].log_probabilities is None


def test_a_stream_is_cancelled_between_steps(files: Path) -> None:
    model = open_model(files / "fp32")
    passes: list[int] = []
    model.model.register_forward_hook(lambda *_: passes.append(1))  # type: ignore[attr-defined]
    pieces = list(model.stream_batch(["abc", "de"], GenerationSettings(maximum_new_tokens=50), lambda: len(passes) > 5))
    assert len(passes) == 6
    assert {piece.prompt for piece in pieces} <= {0, 1}


def test_settings_are_for_all_prompts_or_one_each(files: Path) -> None:
    with pytest.raises(GenerationError, match="1 settings for 2 prompts"):
        open_model(files / "fp32").generate(["a", "b"], [SHORT])


def test_scores_of_a_batch_are_those_of_each_text(opened: tuple[ModelFormat, ModelInterface]) -> None:
    model_format, model = opened
    texts = ["hello", "", "the quick brown fox " * 20, "naïve", "a", "the lazy dog"]
    together = model.score(texts)
    assert [len(score.log_likelihoods) for score in together] == [5, 0, 400, 6, 1, 12]
    # Int8 rounds its inputs: what differs in the last digit may differ by a step.
    tolerance = 0.05 if model_format is ModelFormat.INT8 else 1e-4
    for text, score in zip(texts, together, strict=True):
        (alone,) = model.score([text])
        assert score.tokens == alone.tokens
        assert score.log_likelihoods == pytest.approx(alone.log_likelihoods, abs=tolerance)


def test_texts_of_like_length_are_scored_in_one_pass(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model(files / "fp32")
    shapes: list[tuple[int, ...]] = []
    model.model.register_forward_hook(  # type: ignore[attr-defined]
        lambda _module, inputs, _output: shapes.append(tuple(inputs[0].shape))
    )
    monkeypatch.setattr("model.interface.hybrid_scoring._TOKENS_AT_ONCE", 60)
    model.score(["x" * length for length in (10, 100, 11, 9, 30, 12)])
    assert shapes == [(1, 60), (1, 40), (1, 30), (4, 12)]


def test_scores_every_token_of_every_text(opened: tuple[ModelFormat, ModelInterface]) -> None:
    _, model = opened
    first, second = model.score(["hello", "naïve"])
    assert len(first.log_likelihoods) == len(first.tokens) == 5
    assert second.text_bytes == len(second.tokens) == 6
    assert all(value < 0 for value in first.log_likelihoods)
    assert first.log_likelihood == pytest.approx(sum(first.log_likelihoods))


def test_scoring_in_pieces_equals_scoring_at_once(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model(files / "fp32")
    text = "the quick brown fox " * 10
    at_once = model.score([text])[0]
    monkeypatch.setattr("model.interface.hybrid_scoring._TOKENS_AT_ONCE", 7)
    assert model.score([text])[0].log_likelihoods == pytest.approx(at_once.log_likelihoods, abs=1e-4)


def test_score_is_the_models_own_cross_entropy(files: Path) -> None:
    model = open_model(files / "fp32")
    ids = [0, *model.tokenizer.encode("some text").ids]  # type: ignore[attr-defined]
    with torch.no_grad():
        loss = model.model.loss(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]))  # type: ignore[attr-defined]
    score = model.score(["some text"])[0]
    assert -score.log_likelihood / len(score.tokens) == pytest.approx(float(loss), abs=1e-4)


def test_formats_agree(files: Path) -> None:
    scores = [open_model(files / path).score(["the quick brown fox"])[0].log_likelihood for path in PATHS.values()]
    assert all(math.isclose(score, scores[0], rel_tol=0.02) for score in scores)


def test_gguf_carries_its_own_tokenizer(files: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.gguf"
    alone.write_bytes((files / "q8_0.gguf").read_bytes())
    assert open_model(alone).generate(["abc"], SHORT) == open_model(files / "q8_0.gguf").generate(["abc"], SHORT)


def test_text_that_spells_the_separator_is_text(files: Path) -> None:
    score = open_model(files / "fp32").score(["<|endoftext|>"])[0]
    assert len(score.tokens) == len("<|endoftext|>")


def test_too_long_text_is_refused(files: Path) -> None:
    model = open_model(files / "fp32")
    with pytest.raises(GenerationError, match="maximum_context of 1024"):
        model.score(["x" * 1100])
    with pytest.raises(GenerationError, match="maximum_context of 1024"):
        model.generate(["x" * 1100], SHORT)


def test_paths_without_a_model_say_so(files: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no model"):
        open_model(tmp_path)
    (tmp_path / "a.gguf").touch()
    (tmp_path / "b.gguf").touch()
    with pytest.raises(CheckpointError, match="several models"):
        open_model(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_model(files / "fp32", tokenizer_path=tmp_path / "absent.json")
    with pytest.raises(CheckpointError, match="no weights file"):
        open_model(files / "tokenizer.json")


def test_a_damaged_model_is_not_healthy(files: Path) -> None:
    model = open_model(files / "fp32")
    with torch.no_grad():
        model.model.lm_head.weight.fill_(math.nan)  # type: ignore[attr-defined]
    health = model.health()
    assert not health.ok and "not finite" in health.problem
    with pytest.raises(GenerationError, match="damaged"):
        model.score(["x"])


def test_hugging_face_directories_open(files: Path, tmp_path: Path) -> None:
    original = open_model(files / "fp32")
    for name, shard_bytes in (("whole", 5 * 10**9), ("sharded", 200_000)):
        save_hugging_face(
            load(files / "fp32"), tmp_path / name, tokenizer_json=files / "tokenizer.json", shard_bytes=shard_bytes
        )
        opened = open_model(tmp_path / name)
        assert opened.info().file_bytes > 4 * original.info().parameters
        assert opened.score(["while True:"]) == original.score(["while True:"])
