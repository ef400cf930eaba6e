"""Perplexity of plain texts, against lm-eval's own windows, counts and aggregation on the model's own logits."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from small_artifacts import text_of

from infra.artifacts import Artifact, ArtifactStore
from model import load
from tasks.evaluation.inputs import open_inputs
from tasks.evaluation.text_perplexity import measure_text_perplexity

Artifacts = tuple[ArtifactStore, dict[str, Artifact]]
CONTEXT = 32
SCORED = [text_of(seed, words) for seed, words in ((200, 90), (201, 3), (202, 40))]
COUNTED = [text.replace(" ", "  ").replace(".", " . é") for text in SCORED]


def log_likelihood(artifacts: Artifacts, text: str) -> float:
    """As `loglikelihood_rolling` of lm-eval defines it, a window at a time, from the model's logits."""
    inputs = open_inputs(artifacts[1])
    model = load(artifacts[1]["checkpoint"].directory / "model")
    windows = get_rolling_token_windows(inputs.encode(text), inputs.separator, CONTEXT, 1)
    total = 0.0
    for before, scored in map(make_disjoint_window, windows):
        row = torch.tensor([[*before, *scored]])
        with torch.inference_mode():
            logits = model(row[:, :-1])[0].double().log_softmax(dim=-1)
        total += float(logits[len(before) - 1 :].gather(-1, torch.tensor(scored)[:, None]).sum())
    return total


def test_words_and_bytes_cost_what_lm_eval_says(artifacts: Artifacts) -> None:
    found = measure_text_perplexity(open_inputs(artifacts[1]).interface, SCORED, CONTEXT, COUNTED)
    likelihoods = [log_likelihood(artifacts, text) for text in SCORED]
    words = [(value, len(re.split(r"\s+", text))) for value, text in zip(likelihoods, COUNTED, strict=True)]
    sizes = [(value, len(text.encode())) for value, text in zip(likelihoods, COUNTED, strict=True)]
    assert found["word_perplexity"] == pytest.approx(weighted_perplexity(words), rel=1e-6)
    assert found["byte_perplexity"] == pytest.approx(weighted_perplexity(sizes), rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(bits_per_byte(sizes), rel=1e-6)


def test_every_token_is_scored_once_with_its_visible_context(artifacts: Artifacts) -> None:
    model = open_inputs(artifacts[1]).interface
    found = measure_text_perplexity(model, SCORED, CONTEXT)
    lengths = [len(model.encode(text)) for text in SCORED]
    assert found["tokens"] == sum(lengths) == sum(row["tokens"] for row in found["by_position"])
    assert found["by_position"][-1]["to"] == CONTEXT
    # The last window is filled up with what the ones before it scored: its tokens see most of a window.
    places = np.concatenate([np.arange(min(length, CONTEXT)) + 1 for length in lengths])
    early = sum(row["tokens"] for row in found["by_position"] if row["to"] <= 16)
    assert int((places <= 16).sum()) <= early < found["tokens"]
    loss = sum(row["loss"] * row["tokens"] for row in found["by_position"]) / found["tokens"]
    assert np.exp(loss) == pytest.approx(found["perplexity"])


def test_texts_without_tokens_are_refused(artifacts: Artifacts) -> None:
    model = open_inputs(artifacts[1]).interface
    with pytest.raises(ValueError, match="1 texts to score, 2 to count"):
        measure_text_perplexity(model, ["a"], CONTEXT, ["a", "b"])
    with pytest.raises(ValueError, match="with text in them"):
        measure_text_perplexity(model, [""], CONTEXT)
