"""The stage from a checkpoint to judged formats, in the runtimes users have, with files ruined on the way."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from small_models import Artifacts, in_own_store, small_config

from infra.artifacts import Artifact, build_stage
from infra.errors import ConfigurationError, PipelineError
from model import HybridLM, preset
from model.exports.onnx.directory import METADATA_FILE, WEIGHTS_FILE, checksum
from model.interface import Runtime
from model.llama_cpp import Build, available_builds
from tasks.quantization import STAGE, QuantizationConfig, WeightFormat, processes
from tasks.quantization import formats as formats_module
from tasks.quantization import stage as stage_module
from tasks.quantization.formats import check_formats, runtime_of
from tasks.quantization.measuring import Job, MeasuringPlan

CONFIG = QuantizationConfig(
    context_tokens=128,
    comparison_tokens=300,
    needle={"lengths": [110], "depths": [0.5], "samples_per_cell": 2, "candidates": 3},
    speed={"decode_tokens": 2, "repetitions": 1},
)
needs_patch = pytest.mark.skipif(
    Build.PATCHED not in available_builds(), reason="llama.cpp with our patch is not built: run `make llama`"
)


def config_of(*names: str) -> QuantizationConfig:
    return CONFIG.model_copy(update={"formats": tuple(map(WeightFormat, names))})


def quantized(artifacts: Artifacts, config: QuantizationConfig) -> Artifact:
    return build_stage(STAGE, config, artifacts[1], artifacts[0]).artifact


def rows_of(artifact: Artifact) -> dict[str, dict[str, Any]]:
    return {row["format"]: row for row in artifact.manifest.tables["formats"]}


def ruining(ruins: dict[str, Callable[[list[Path]], None]]) -> Callable[..., list[Path]]:
    """The stage's writer, after which some files are no longer what was written."""
    real = stage_module.write

    def write(*arguments: Any) -> list[Path]:
        files = real(*arguments)
        if arguments[2] in ruins:
            ruins[arguments[2]](files)
        return files

    return write


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


def truncate(files: list[Path]) -> None:
    """The file ends early."""
    content = files[0].read_bytes()
    files[0].write_bytes(content[: len(content) // 2])


def ruin_onnx(files: list[Path]) -> None:
    """One matrix's integers are random, and the checksums are made to fit: only the answers give it away."""
    directory = files[0].parent
    path = directory / WEIGHTS_FILE
    graph = onnx.load(str(directory / "chunk.onnx"), load_external_data=False).graph
    (matrix,) = (one for one in graph.initializer if one.name == "model.layers.0.down_proj.weight_quantized")
    place = {entry.key: entry.value for entry in matrix.external_data}
    content = bytearray(path.read_bytes())
    start, length = int(place["offset"]), int(place["length"])
    content[start : start + length] = np.random.default_rng(0).bytes(length)
    path.write_bytes(content)
    description = json.loads((directory / METADATA_FILE).read_text())
    description["sha256"][WEIGHTS_FILE] = checksum(path)
    (directory / METADATA_FILE).write_text(json.dumps(description))


@pytest.fixture(scope="module")
def of_hgrn2(artifacts_of: Callable[[str], Artifacts], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """GGUF and ONNX of an HGRN-2 hybrid; the int8 graphs' weights are ruined."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_module, "write", ruining({"onnx-int8": ruin_onnx}))
        artifacts = in_own_store(artifacts_of("hgrn2"), tmp_path_factory.mktemp("hgrn2"))
        return quantized(artifacts, config_of("q8_0", "onnx-int8", "onnx"))


def test_formats_are_opened_in_their_runtimes_and_measured(
    artifacts_of: Callable[[str], Artifacts], tmp_path: Path
) -> None:
    artifact = quantized(in_own_store(artifacts_of("mamba2"), tmp_path), config_of("int8", "int4", "q8_0", "q4_k_m"))
    rows = rows_of(artifact)
    assert list(rows) == ["original", "int8", "int4", "q8_0", "q4_k_m"]
    assert artifact.manifest.statistics["accepted"] == ["int8", "int4", "q8_0", "q4_k_m"]
    assert rows["original"]["perplexity"] < 30  # of 320 tokens: it has learned something to disagree about
    assert rows["original"]["kl"] == 0
    for name in ("q8_0", "q4_k_m"):
        row = rows[name]
        assert row["runtime"] == "llama.cpp, stock"
        assert abs(row["runtime_difference_percent"]) < 0.5
        assert row["own_reader_perplexity"] != row["perplexity"]  # two readings, not one told twice
    assert 0 < rows["q8_0"]["kl"] < rows["q4_k_m"]["kl"] < 0.05
    assert 0 < rows["int8"]["kl"] < rows["int4"]["kl"] < 0.1
    assert rows["int4"]["size_mb"] < rows["int8"]["size_mb"] < rows["original"]["size_mb"]
    assert all(0 <= row["needle_recall"] <= 1 and row["peak_added_mb"] > 0 for row in rows.values())
    assert artifact.manifest.metrics["quant/int4/tokens_per_second"] > 0
    assert "stock llama.cpp" in artifact.manifest.statistics["gguf_runtime"]
    content = json.loads(artifact.path("quantization.json").read_bytes())
    assert "speed" not in content["formats"]["int8"]
    assert json.loads(artifact.path("timings.json").read_bytes())["int4"]["decode_tokens_per_second"] > 0
    assert artifact.path("plots/formats.png").read_bytes().startswith(b"\x89PNG")
    assert not (artifact.directory / ".scratch").exists()


@needs_patch
def test_hgrn2_runs_in_llama_cpp_with_our_patch(of_hgrn2: Artifact) -> None:
    row = rows_of(of_hgrn2)["q8_0"]
    assert row["runtime"] == "llama.cpp, with our patch"
    assert row["verdict"] == "accepted", row["reason"]
    assert abs(row["runtime_difference_percent"]) < 0.5
    assert "patch" in of_hgrn2.manifest.statistics["gguf_runtime"]


def test_onnx_graphs_run_in_onnxruntime_and_ruined_ones_are_refused(of_hgrn2: Artifact) -> None:
    rows = rows_of(of_hgrn2)
    assert rows["onnx"]["runtime"] == "onnxruntime, float32"
    assert rows["onnx"]["verdict"] == "accepted", rows["onnx"]["reason"]
    assert rows["onnx"]["kl"] < 1e-6
    assert rows["onnx-int8"]["size_mb"] < 0.6 * rows["onnx"]["size_mb"]
    assert "allowed" in of_hgrn2.manifest.statistics["refused"]["onnx-int8"]
    assert of_hgrn2.path("onnx/chunk.onnx").is_file()


def test_ruined_files_are_refused_and_the_sound_one_is_not(
    artifacts_of: Callable[[str], Artifacts],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ruins = {"int8": ruin_int8, "int4": shuffle_int4, "q8_0": ruin_gguf, "q4_k_m": truncate}
    monkeypatch.setattr(stage_module, "write", ruining(ruins))
    names = ("int8", "int4", "q8_0", "q4_k_m", "f16")
    statistics = quantized(in_own_store(artifacts_of("mamba2"), tmp_path), config_of(*names)).manifest.statistics
    assert statistics["accepted"] == ["f16"]
    assert list(statistics["refused"]) == ["int8", "int4", "q8_0", "q4_k_m"]
    assert "allowed" in statistics["refused"]["int8"]
    assert "allowed" in statistics["refused"]["int4"]
    assert "format q4_k_m is refused" in caplog.text


def test_a_process_that_dies_is_its_formats_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(plan: Any, job: Job) -> dict[str, Any]:
        faulthandler.disable()  # pytest's, which would print where
        os.kill(os.getpid(), int(job.name))
        return {}

    monkeypatch.setattr(processes, "measure", killed)
    plan = MeasuringPlan.model_construct(jobs=[])

    def ending(number: signal.Signals) -> dict[str, Any]:
        job = Job(name=str(int(number)), path=Path("model"), runtime=Runtime.TORCH)
        return processes._measured_apart(plan, job)

    assert "killed by SIGSEGV" in ending(signal.SIGSEGV)["problem"]
    assert "SIGKILL: most likely the machine is out of memory" in ending(signal.SIGKILL)["problem"]
    with pytest.raises(PipelineError, match="was stopped"):
        ending(signal.SIGTERM)


def test_an_exception_in_a_runtime_is_its_formats_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(plan: Any, job: Job) -> dict[str, Any]:
        raise ValueError("no such layer")

    monkeypatch.setattr(processes, "measure", failing)
    job = Job(name="q8_0", path=Path("model"), runtime=Runtime.TORCH)
    found = processes._measured_apart(MeasuringPlan.model_construct(jobs=[]), job)
    assert found == {"problem": "ValueError: no such layer"}


def test_a_missing_build_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats_module, "available_builds", lambda: frozenset({Build.STOCK}))
    missing = runtime_of(small_config("hgrn2"), WeightFormat.Q8_0)
    assert missing.runtime is Runtime.TORCH
    assert "llama.cpp with our patch is not built: read in torch" in missing.label
    assert runtime_of(small_config("mamba2"), WeightFormat.Q8_0).runtime is Runtime.LLAMA_CPP


def test_an_interrupted_stage_keeps_its_finished_formats(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[WeightFormat] = []
    measured: list[list[str]] = []
    real = stage_module.write

    def counted(*arguments: Any) -> list[Path]:
        written.append(arguments[2])
        return real(*arguments)

    def interrupted(plan: Any, path: Path, on_result: Any, watch: Any) -> None:
        measured.append([job.name for job in plan.jobs])
        for job in plan.jobs:
            if job.name == "int4" and len(measured) == 1:
                raise KeyboardInterrupt
            on_result(job.name, scripted_figures(1.0 if job.name == "original" else 1.001))

    monkeypatch.setattr(stage_module, "write", counted)
    monkeypatch.setattr(stage_module, "run_plan", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quantized(artifacts, config_of("int8", "int4"))
    artifact = quantized(artifacts, config_of("int8", "int4"))
    assert written == ["int8", "int4"]
    assert measured == [["original", "int8", "int4"], ["int4"]]
    assert artifact.manifest.statistics["accepted"] == ["int8", "int4"]


def scripted_figures(loss: float) -> dict[str, Any]:
    return {
        "comparison": {"tokens": 9, "loss": loss, "original_loss": 1.0, "kl": 0.001, "agreement": 1.0},
        "reading": None,
        "needle": {},
        "speed": {"prefill_tokens_per_second": 9.0, "decode_tokens_per_second": 9.0, "peak_added_bytes": 9},
    }


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
        odd = preset("miniature").changed(width=40, feed_forward_width=72, hgrn2_head_dim=8)
        check_formats(HybridLM(odd), (WeightFormat.INT4,))
    with pytest.raises(ConfigurationError, match=r"quantization\.formats has q8_0"):
        check_formats(HybridLM(small_config("mamba2").changed(query_key_norm=True)), (WeightFormat.Q8_0,))
    possible = (WeightFormat.INT8, WeightFormat.INT4, WeightFormat.F16, WeightFormat.Q8_0, WeightFormat.ONNX_INT8)
    check_formats(narrow, possible)
