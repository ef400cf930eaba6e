"""The bundle: complete, traceable, and a pure function of its inputs."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from infra.artifacts import Artifact, ArtifactStore
from infra.errors import ConfigurationError
from model.interface import GenerationSettings, open_model
from tasks.registration.model_card import markdown_table

Make = Callable[..., Artifact]
PASSED = {"metric": "eval/loss", "condition": "finite", "threshold": None, "value": 3.2, "verdict": "passed"}
FAILED = {
    "metric": "eval/bits_per_byte",
    "condition": "below eval/baseline_5gram_bits_per_byte",
    "threshold": 2.1,
    "value": 2.4,
    "verdict": "failed",
}


def test_holds_the_model_its_tokenizer_and_the_accepted_formats(make_bundle: Make) -> None:
    bundle = make_bundle("1", [PASSED])
    names = {entry.path for entry in bundle.manifest.files}
    assert names == {
        "model/config.json", "model/model.safetensors", "tokenizer.json", "int8/config.json",
        "int8/model-int8.safetensors", "model_card.md", "lineage.json",
    }  # fmt: skip
    assert bundle.manifest.statistics["formats"] == ["fp32", "int8"]
    assert bundle.manifest.statistics["refused_formats"] == {"q8_0": "too much lost"}
    model = open_model(bundle.directory / "model")
    assert model.generate(["abc"], GenerationSettings(maximum_new_tokens=3))[0].new_tokens <= 3


def test_lineage_reaches_the_sources(make_bundle: Make) -> None:
    bundle = make_bundle("1", [PASSED])
    lineage = json.loads((bundle.directory / "lineage.json").read_text())
    kinds = [reference.partition("/")[0] for reference in lineage["artifacts"]]
    assert set(kinds) == {"raw_documents", "tokens", "checkpoint", "evaluation", "quantized"}
    assert kinds.index("raw_documents") < kinds.index("tokens") < kinds.index("checkpoint")
    assert lineage["missing"] == []


def test_a_deleted_ancestor_is_named_not_hidden(make_bundle: Make, store: ArtifactStore) -> None:
    key = f"raw_documents/{'a' * 32}/manifest.json"
    kept = store.storage.read(key)
    store.storage.delete(key)
    try:
        bundle = make_bundle("2", [PASSED])
    finally:
        store.storage.write(key, kept)
    card = (bundle.directory / "model_card.md").read_text()
    assert json.loads((bundle.directory / "lineage.json").read_text())["missing"] == [
        key.removesuffix("/manifest.json")
    ]
    assert "its manifest is gone" in card and "Unknown: the data stages' manifests are gone." in card


def test_the_card_tells_the_story_and_its_limits(make_bundle: Make) -> None:
    card = (make_bundle("3", [PASSED, FAILED]).directory / "model_card.md").read_text()
    assert "eval/bits_per_byte is 2.4, must be below eval/baseline_5gram_bits_per_byte (limit 2.1)" in card
    assert "Stock llama.cpp has no `hgrn2` architecture" in card
    assert "| docs \\| &lt;b>evil&lt;/b> | MIT | 120 |" in card
    assert "0.0500 USD" in card
    assert "tokens/total | 5000" in card


def test_a_format_that_was_refused_cannot_be_served(make_bundle: Make) -> None:
    with pytest.raises(ConfigurationError, match=r"serve_format is 'q8_0'.*its quality gate refused it"):
        make_bundle("1", [PASSED], serve_format="q8_0")


def test_table_cells_cannot_break_out() -> None:
    text = markdown_table([{"a": "x|y\n# title", "b": "[link](javascript:x) `code`"}])
    assert text.splitlines()[2] == "| x\\|y # title | \\[link](javascript:x) \\`code\\` |"
