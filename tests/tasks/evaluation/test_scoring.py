"""The evaluation's questions through the contract, against the model's own logits, in torch and in llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_artifacts import END_OF_TEXT
from torch.nn import functional

from infra.artifacts import Artifact, ArtifactStore
from model import HybridLM, ModelConfig, load
from model.exports.gguf import GGUFFormat, save_gguf
from model.interface import ModelInterface, open_model
from model.llama_cpp import Build, available_builds
from tasks.evaluation.inputs import open_inputs
from tasks.evaluation.scoring import InterfaceScorer
from tasks.tokenization import TOKENIZER_FILE

Artifacts = tuple[ArtifactStore, dict[str, Artifact]]
ROWS = [np.arange(1, length + 1) % 300 for length in (30, 7, 21, 7)]


def expected_nats(model: HybridLM, row: np.ndarray) -> np.ndarray:
    tokens = torch.from_numpy(row)[None]
    with torch.inference_mode():
        return functional.cross_entropy(model(tokens[:, :-1])[0], tokens[0, 1:], reduction="none").numpy()


def in_llama_cpp(model: HybridLM, tokenizer: Path, directory: Path) -> ModelInterface:
    path = directory / "model.gguf"
    save_gguf(model, path, GGUFFormat.F32, tokenizer=tokenizer, end_of_text=END_OF_TEXT)
    return open_model(path, runtime="llama.cpp")


def test_scores_are_those_of_one_row_at_a_time(artifacts: Artifacts) -> None:
    inputs = open_inputs(artifacts[1])
    model = load(artifacts[1]["checkpoint"].directory / "model")
    for row, nats in zip(ROWS, InterfaceScorer(inputs.interface).token_nats(ROWS), strict=True):
        np.testing.assert_allclose(nats, expected_nats(model, row), atol=2e-5)


def test_candidates_equal_whole_rows(artifacts: Artifacts) -> None:
    scorer = InterfaceScorer(open_inputs(artifacts[1]).interface)
    contexts = np.array([[5, 9, 20, 31, 7, 7, 12], [1, 2, 3, 4, 5, 6, 7]])
    candidates = [[[4], [8, 9, 10]], [[11, 12], [13]]]
    nats = scorer.candidate_nats(contexts, candidates)
    assert nats.shape == (2, 2)
    for context, row, found in zip(contexts, candidates, nats, strict=True):
        for tokens, value in zip(row, found, strict=True):
            whole = scorer.token_nats([np.array([*context, *tokens])])[0]
            assert value == pytest.approx(whole[-len(tokens) :].sum(), abs=1e-4)


@pytest.mark.skipif(Build.STOCK not in available_builds(), reason="needs the stock build of llama.cpp")
def test_llama_cpp_gives_the_same_scores(artifacts: Artifacts, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"width": 256, "layer_count": 2, "attention_heads": 4, "feed_forward_width": 256}
    model = HybridLM(ModelConfig(vocabulary_size=320, layer_kinds=("mamba2", "attention"), **shape)).eval()
    other = in_llama_cpp(model, artifacts[1]["tokens"].path(TOKENIZER_FILE), tmp_path)
    scorer = InterfaceScorer(other)
    for row, nats in zip(ROWS, scorer.token_nats(ROWS), strict=True):
        np.testing.assert_allclose(nats, expected_nats(model, row), atol=2e-3)
    contexts, candidates = np.array([ROWS[0][:6]]), [[[4], [8, 9, 10]]]
    whole = expected_nats(model, np.array([*contexts[0], 8, 9, 10]))[-3:].sum()
    assert scorer.candidate_nats(contexts, candidates)[0, 1] == pytest.approx(whole, abs=5e-3)
