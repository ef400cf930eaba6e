"""The bundle: complete, traceable, and a pure function of its inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from judged import FAILED, PASSED, answered
from pydantic import ValidationError

from infra.artifacts import Artifact, ArtifactStore
from infra.errors import ConfigurationError
from model.interface import GenerationSettings, open_model
from tasks.quantization.config import WeightFormat
from tasks.registration import RegistrationConfig
from tasks.registration.evidence import items_of_artifact
from tasks.registration.formats import FLOAT32, FORMATS
from tasks.registration.model_card import limitations, markdown_table
from tasks.registration.packaging import format_requirements

Make = Callable[..., Artifact]


def test_holds_the_model_its_tokenizer_and_the_accepted_formats(make_bundle: Make) -> None:
    bundle = make_bundle("1", [PASSED])
    names = {entry.path for entry in bundle.manifest.files}
    assert names == {
        "model/config.json", "model/model.safetensors", "tokenizer.json", "int8/config.json",
        "int8/model-int8.safetensors", "model_card.md", "lineage.json", "evaluation/evaluation.json",
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


def test_a_deleted_ancestor_is_named_not_hidden(
    make_bundle: Make, store: ArtifactStore, chain: dict[str, Artifact]
) -> None:
    key = f"{chain['tokens'].manifest.inputs['documents']}/manifest.json"
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
    card = (make_bundle("3", [PASSED, FAILED], formats=("q4_k_m",)).directory / "model_card.md").read_text()
    assert "eval/bits_per_byte is 2.4, must be below eval/baseline_5gram_bits_per_byte (limit 2.1)" in card
    assert "Stock llama.cpp has no `hgrn2` architecture" in card
    assert "| docs \\| &lt;b>evil&lt;/b> | MIT | 120 |" in card
    assert "0.0500 USD" in card
    assert "tokens/total | 5000" in card
    assert "| `gguf/model-q4_k_m.gguf` | the same model as q4_k_m: GGUF, 4 to 6 bits a weight and scales |" in card


@pytest.mark.parametrize(
    ("formats", "mixers", "needs_patch"),
    [
        (("q4_k_m",), ("hgrn2", "attention"), True),
        (("q4_k_m",), ("mamba2", "attention"), False),  # granitehybrid
        (("f16",), ("gated_deltanet", "attention"), False),  # qwen35
        (("int8",), ("hgrn2", "attention"), False),
    ],
)
def test_only_what_stock_llama_cpp_cannot_run_is_said_to_need_our_patch(
    formats: tuple[str, ...], mixers: tuple[str, ...], needs_patch: bool
) -> None:
    assert any("llama.cpp" in line for line in limitations(formats, mixers)) == needs_patch


def test_every_format_is_found_by_one_table() -> None:
    files = {
        "int8": "int8/model-int8.safetensors", "int4": "int4/model-int4.safetensors", "onnx": "onnx/step.onnx",
        "onnx-int8": "onnx-int8/step.onnx", "f16": "gguf/model-f16.gguf", "q4_k_m": "gguf/model-q4_k_m.gguf",
    }  # fmt: skip
    for name, path in files.items():
        assert [known for known, stored in FORMATS.items() if stored.holds(path)] == [name]
    assert FORMATS["onnx"].opened == "onnx" and FORMATS["q8_0"].opened == "gguf/model-q8_0.gguf"
    assert set(FORMATS) - {FLOAT32} >= {str(name) for name in WeightFormat}


def test_an_unknown_format_is_refused_where_it_is_asked_for() -> None:
    with pytest.raises(ValidationError, match="no stored format is called q5_1"):
        RegistrationConfig(formats=("q5_1",))


def test_how_a_version_is_promoted_does_not_change_the_bundle(make_bundle: Make) -> None:
    assert make_bundle("1", [PASSED], promotion="gates").reference == make_bundle("1", [PASSED]).reference


def test_the_bundle_carries_the_results_item_by_item(make_bundle: Make) -> None:
    bundle = make_bundle("a", [PASSED], answered(100))
    (found,) = items_of_artifact(bundle) or []
    assert found.name == "piqa/accuracy" and found.score == 0.5
    assert items_of_artifact(make_bundle("1", [PASSED])) is None


def test_requirements_are_those_of_the_formats(make_bundle: Make) -> None:
    bundle = make_bundle("1", [PASSED])
    assert format_requirements(bundle) == []
    with_onnx = {**bundle.manifest.statistics, "formats": ["fp32", "onnx", "onnx-int8"]}
    manifest = bundle.manifest.model_copy(update={"statistics": with_onnx})
    assert format_requirements(replace(bundle, manifest=manifest)) == ["onnxruntime"]


def test_a_format_that_was_refused_cannot_be_served(make_bundle: Make) -> None:
    with pytest.raises(ConfigurationError, match=r"serve_format is 'q8_0'.*its quality gate refused it"):
        make_bundle("1", [PASSED], serve_format="q8_0")


def test_table_cells_cannot_break_out() -> None:
    text = markdown_table([{"a": "x|y\n# title", "b": "[link](javascript:x) `code`"}])
    assert text.splitlines()[2] == "| x\\|y # title | \\[link](javascript:x) \\`code\\` |"
