"""Stages that cannot fit are refused before anything is spent; `sam2 fit`; presets and base profiles by name."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from flows.command_line import app
from flows.configuration import load_profile
from flows.memory_check import settings, stage_memory
from infra.errors import ConfigurationError
from model import preset

LARGE = ["sam2-5.5b", "sam2-5.5b-gdn", "mamba-slm-1.3b", "mamba-slm-2.7b", "mamba-slm-6.7b", "mamba-slm-13b"]


@pytest.mark.parametrize("name", LARGE)
def test_the_large_profiles_fit_80_gb_with_room_to_spare(name: str) -> None:
    config = load_profile(name)
    assert config.model == preset(name)
    assert config.training.gpu_memory_gb == 80
    for stage in config.training_stages():
        assert stage_memory(stage).total <= 72e9, stage.name
        assert stage_memory(stage).cpu == {}


def test_the_long_context_curriculum_reaches_100k_in_six_stages() -> None:
    stages = load_profile("sam2-5.5b").training_stages()
    assert [stage.context_tokens // 1024 for stage in stages] == [4, 8, 16, 32, 64, 100]
    assert sum(stage.tokens for stage in stages) == 136 * 10**9
    assert {stage.stage_model.rope_theta for stage in stages} == {1e6}


def test_a_stage_that_does_not_fit_is_refused_with_the_bytes_and_the_way_out() -> None:
    with pytest.raises(ConfigurationError, match=r"stage 'foundation-4k' needs 51\.\d GB .* have 40\.0 GB") as caught:
        load_profile("sam2-5.5b", {"training": {"gpu_memory_gb": 40}})
    assert "the cheapest way to fit takes" in caught.value.fix
    assert "zero_stage=" in caught.value.fix


def test_nothing_is_checked_without_a_size() -> None:
    changes = {"training": {"gpu_memory_gb": None}}
    assert load_profile("fineweb-edu", changes).training.gpu_memory_gb is None


def test_an_override_of_one_field_keeps_the_presets_others() -> None:
    config = load_profile("sam2-5.5b", {"model": {"maximum_context": 200_000}})
    assert config.model == preset("sam2-5.5b").changed(maximum_context=200_000)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="unknown model preset 'sam3'"):
        load_profile("miniature", {"model": "sam3"})


def test_settings_are_those_of_the_stage() -> None:
    stage = load_profile("sam2-5.5b").training_stages()[-1]
    assert settings(stage.placement()) == {
        "zero_stage": 2, "micro_batch": 1, "sequence_parallel": 2, "gradient_checkpointing": True,
    }  # fmt: skip


def test_the_command_shows_ways_or_fails() -> None:
    arguments = ["fit", "--model", "sam2-5.5b", "--context", "100000", "--gpus", "8", "--ways", "2"]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0
    assert "ZeRO-3" in found.output
    assert "slower" in found.output
    rows = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    assert len(rows) == 2
    assert rows[0]["gpu_total_bytes"] <= 80e9
    nothing = CliRunner().invoke(app, [*arguments[:5], "--gpus", "1", "--gpu-gb", "16"])
    assert nothing.exit_code == 1
    assert "Nothing makes rows of 100,000 tokens fit" in nothing.output
