"""The stage from a checkpoint to judged formats, in the runtimes users have, with files ruined on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from small_models import Artifacts, in_own_store, small_config

from infra.artifacts import Artifact, build_stage
from infra.errors import ConfigurationError, PipelineError
from model import HybridLM, preset
from model.exports.onnx.directory import METADATA_FILE, WEIGHTS_FILE, checksum
from model.llama_cpp import Build, available_builds
from tasks.quantization import STAGE, QuantizationConfig, WeightFormat
from tasks.quantization import formats as formats_module
from tasks.quantization import stage as stage_module
from tasks.quantization.formats import check_formats

CONFIG = QuantizationConfig(
    context_tokens=128,
    comparison_tokens=300,
    needle={"lengths": [110], "depths": [0.5], "samples_per_cell": 2, "candidates": 3},
    speed={"decode_tokens": 2, "repetitions": 1},
)
#: Which llama.cpp runs a family's files.
BUILDS = {"hgrn2": Build.PATCHED, "mamba2": Build.STOCK, "gated_deltanet": Build.STOCK}
needs_patch = pytest.mark.skipif(
    Build.PATCHED not in available_builds(), reason="llama.cpp with our patch is not built: run `make llama`"
)


def config_of(*names: str, **changes: Any) -> QuantizationConfig:
    return QuantizationConfig.model_validate(CONFIG.model_dump() | {"formats": names} | changes)


def quantized(artifacts: Artifacts, config: QuantizationConfig) -> Artifact:
    return build_stage(STAGE, config, artifacts[1], artifacts[0]).artifact


def rows_of(artifact: Artifact) -> dict[str, dict[str, Any]]:
    return {row["format"]: row for row in artifact.manifest.tables["formats"]}


@pytest.mark.parametrize("family", [pytest.param("hgrn2", marks=needs_patch), "mamba2", "gated_deltanet"])
def test_gguf_files_mean_in_llama_cpp_what_they_mean_to_our_reader(
    family: str, artifacts_of: Callable[[str], Artifacts], tmp_path: Path
) -> None:
    artifact = quantized(in_own_store(artifacts_of(family), tmp_path), config_of("q8_0", "q4_k_m"))
    rows = rows_of(artifact)
    assert rows["original"]["perplexity"] < 30  # of 320 tokens: it has learned something to disagree about
    for name in ("q8_0", "q4_k_m"):
        row = rows[name]
        assert row["runtime"] == f"llama.cpp, {'with our patch' if BUILDS[family] is Build.PATCHED else 'stock'}"
        assert row["verdict"] == "accepted", row["reason"]
        assert abs(row["runtime_difference_percent"]) < 0.5
        assert row["own_reader_perplexity"] != row["perplexity"]  # two readings, not one told twice
    assert rows["q8_0"]["kl"] < rows["q4_k_m"]["kl"] < 0.05
    assert ("patch" in artifact.manifest.statistics["gguf_runtime"]) == (family == "hgrn2")


def test_formats_for_torch_are_made_opened_and_measured(artifacts: Artifacts) -> None:
    artifact = quantized(artifacts, config_of("int8", "int4"))
    rows = rows_of(artifact)
    assert list(rows) == ["original", "int8", "int4"]
    assert rows["original"]["kl"] == 0
    assert rows["int4"]["size_mb"] < rows["int8"]["size_mb"] < rows["original"]["size_mb"]
    assert 0 < rows["int8"]["kl"] < rows["int4"]["kl"] < 0.1
    assert all(0 <= row["needle_recall"] <= 1 and row["peak_added_mb"] > 0 for row in rows.values())
    assert artifact.manifest.metrics["quant/int4/tokens_per_second"] > 0
    assert artifact.manifest.statistics["accepted"] == ["int8", "int4"]
    assert artifact.manifest.statistics["gguf_runtime"] is None
    content = json.loads(artifact.path("quantization.json").read_bytes())
    assert "speed" not in content["formats"]["int8"]
    assert json.loads(artifact.path("timings.json").read_bytes())["int4"]["decode_tokens_per_second"] > 0
    assert artifact.path("plots/formats.png").read_bytes().startswith(b"\x89PNG")
    assert not list(artifact.directory.glob(".scratch*"))


def test_a_missing_build_is_said_and_read_in_torch(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats_module, "available_builds", lambda: frozenset({Build.STOCK}))
    row = rows_of(quantized(artifacts, config_of("q8_0")))["q8_0"]
    assert row["runtime"] == (
        "torch, float32 after dequantizing (llama.cpp with our patch is not built: read in torch)"
    )
    assert row["verdict"] == "accepted"
    assert row["runtime_difference_percent"] is None


def ruin_int8(files: list[Path]) -> None:
    """One matrix's scales become zero."""
    path = next(file for file in files if file.suffix == ".safetensors")
    tensors = load_file(path)
    tensors["layers.0.mlp.down_proj.weight_scale"].zero_()
    save_file(tensors, path)


def shuffle_int4(files: list[Path]) -> None:
    """One matrix's groups have each other's scales."""
    path = next(file for file in files if file.suffix == ".safetensors")
    tensors = load_file(path)
    scales = tensors["layers.1.mlp.down_proj.weight_scale"]
    order = torch.randperm(scales.numel(), generator=torch.Generator().manual_seed(0))
    tensors["layers.1.mlp.down_proj.weight_scale"] = -scales.flatten()[order].view_as(scales)
    save_file(tensors, path)


def ruin_gguf(files: list[Path]) -> None:
    """A block's bytes become others in every row of one matrix."""
    (path,) = files
    tensor = next(one for one in GGUFReader(path).tensors if one.name == "blk.0.ffn_down.weight")
    content = bytearray(path.read_bytes())
    width = tensor.data.shape[-1]
    for row in range(tensor.data.shape[0]):
        start = tensor.data_offset + row * width
        content[start : start + 34] = np.random.default_rng(row).bytes(34)
    path.write_bytes(content)


@pytest.mark.parametrize(("name", "ruin"), [("int8", ruin_int8), ("int4", shuffle_int4), ("q8_0", ruin_gguf)])
def test_a_ruined_file_is_refused_and_the_others_are_not(
    name: str, ruin: Callable[[list[Path]], None], artifacts_of: Callable[[str], Artifacts], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real = stage_module.write

    def ruining(*arguments: Any) -> list[Path]:
        files = real(*arguments)
        if arguments[2] == name:
            ruin(files)
        return files

    monkeypatch.setattr(stage_module, "write", ruining)
    artifacts = in_own_store(artifacts_of("mamba2"), tmp_path)
    sound = "q8_0" if name == "int8" else "int8"
    statistics = quantized(artifacts, config_of(name, sound)).manifest.statistics
    assert statistics["accepted"] == [sound]
    assert list(statistics["refused"]) == [name]
    assert statistics["refused"][name]


def test_onnx_is_exported_once_and_a_ruined_export_is_refused(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stage_module.write

    def ruining(*arguments: Any) -> list[Path]:
        files = real(*arguments)
        if arguments[2] is WeightFormat.ONNX_INT8:
            _ruin_onnx(files[0].parent)
        return files

    monkeypatch.setattr(stage_module, "write", ruining)
    artifact = quantized(artifacts, config_of("onnx-int8", "onnx"))
    rows = rows_of(artifact)
    assert artifact.manifest.statistics["accepted"] == ["onnx"]
    assert rows["onnx"]["runtime"] == "onnxruntime, float32"
    assert rows["onnx"]["kl"] < 1e-6
    assert rows["onnx-int8"]["size_mb"] < 0.6 * rows["onnx"]["size_mb"]
    assert "allowed" in artifact.manifest.statistics["refused"]["onnx-int8"]
    assert artifact.path("onnx/chunk.onnx").is_file()


def _ruin_onnx(directory: Path) -> None:
    """A stretch of the weights is random, and the checksums are made to fit: only its answers give it away."""
    path = directory / WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 65536] = np.random.default_rng(0).integers(128, size=65536, dtype=np.uint8).tobytes()
    path.write_bytes(content)
    description = json.loads((directory / METADATA_FILE).read_text())
    description["sha256"][WEIGHTS_FILE] = checksum(path)
    (directory / METADATA_FILE).write_text(json.dumps(description))


def test_a_measuring_process_that_dies_is_its_format_s_affair(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = stage_module.write

    def ruining(*arguments: Any) -> list[Path]:
        files = real(*arguments)
        if arguments[2] is WeightFormat.INT4:
            for file in files:
                file.write_bytes(b"nothing")
        return files

    monkeypatch.setattr(stage_module, "write", ruining)
    statistics = quantized(artifacts, config_of("int4", "int8")).manifest.statistics
    assert statistics["accepted"] == ["int8"]
    assert "int4" in statistics["refused"]["int4"]
    assert "format int4 is refused" in caplog.text


def test_an_interrupted_stage_keeps_its_finished_formats(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[WeightFormat] = []
    measured: list[list[str]] = []
    real_write, real_run = stage_module.write, stage_module.run_plan

    def counted(*arguments: Any) -> list[Path]:
        written.append(arguments[2])
        return real_write(*arguments)

    def interrupted(plan: Any, path: Path, on_result: Any, watch: Any) -> None:
        measured.append([job.name for job in plan.jobs])
        only_first = plan.model_copy(update={"jobs": plan.jobs[:2]}) if len(measured) == 1 else plan
        real_run(only_first, path, on_result, watch)
        if len(measured) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(stage_module, "write", counted)
    monkeypatch.setattr(stage_module, "run_plan", interrupted)
    config = config_of("int8", "int4")
    with pytest.raises(KeyboardInterrupt):
        quantized(artifacts, config)
    quantized(artifacts, config)
    assert written == ["int8", "int4"]
    assert measured == [["original", "int8", "int4"], ["int4"]]


def test_the_original_must_be_measured(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(plan: Any, path: Path, on_result: Any, watch: Any) -> None:
        on_result("original", {"problem": "no memory"})

    monkeypatch.setattr(stage_module, "run_plan", failing)
    with pytest.raises(PipelineError, match="original model could not be measured: no memory"):
        quantized(artifacts, config_of("int8"))


def test_impossible_formats_are_refused_before_any_work() -> None:
    narrow = HybridLM(preset("miniature"))
    with pytest.raises(ConfigurationError, match=r"quantization\.formats has q4_k_m.*multiple of 256"):
        check_formats(narrow, (WeightFormat.F16, WeightFormat.Q4_K_M))
    with pytest.raises(ConfigurationError, match=r"quantization\.formats has int4.*multiples of 32"):
        check_formats(HybridLM(preset("miniature").changed(width=40, feed_forward_width=72)), (WeightFormat.INT4,))
    with pytest.raises(ConfigurationError, match=r"quantization\.formats has q8_0"):
        check_formats(HybridLM(small_config("gated_deltanet").changed(query_key_norm=False)), (WeightFormat.Q8_0,))
    possible = (WeightFormat.INT8, WeightFormat.INT4, WeightFormat.F16, WeightFormat.Q8_0, WeightFormat.ONNX_INT8)
    check_formats(narrow, possible)
