"""Bad input ends in one clear error that names the place and the fix, at the user's own terminal."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import RunningStack

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]


def test_an_unknown_key_is_refused_before_anything_runs(stack: RunningStack, tmp_path: Path) -> None:
    before = [run.id for run in stack.runs.latest(5)]
    result = stack.run_pipeline(tmp_path, "quality.minimum_charcters=5")
    assert result.returncode == 1
    assert "unknown key 'quality.minimum_charcters' (did you mean 'minimum_characters'?)" in result.stderr
    assert "Traceback" not in result.stderr
    assert [run.id for run in stack.runs.latest(5)] == before
    assert list(tmp_path.iterdir()) == []


def test_an_impossible_combination_is_refused_with_the_fix(stack: RunningStack, tmp_path: Path) -> None:
    result = stack.run_pipeline(tmp_path, "model.feed_forward_width=300")
    assert result.returncode == 1
    assert "feed_forward_width 300 is not a multiple of 256" in result.stderr


def test_an_unknown_profile_lists_the_known_ones(stack: RunningStack) -> None:
    result = stack.command("sam2", "run", "--profile", "gigantic")
    assert result.returncode == 1
    assert "there is no profile 'gigantic'" in result.stderr
    assert "smoke" in result.stderr


def test_an_unreadable_source_is_named(stack: RunningStack, tmp_path: Path) -> None:
    missing = tmp_path / "nothing-here.jsonl"
    source = f"download.sources=[{{name: mine, uri: {missing}}}]"
    result = stack.run_pipeline(tmp_path / "artifacts", source)
    assert result.returncode == 1
    assert "nothing-here.jsonl" in result.stdout + result.stderr
    assert "Fix:" in result.stdout + result.stderr


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"cannot mount a small tmpfs here: {made.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_full_disk_ends_in_one_clear_error(stack: RunningStack, tiny_disk: Path) -> None:
    result = stack.run_pipeline(tiny_disk)
    assert result.returncode == 1
    assert "no space left while writing" in result.stdout
    assert "SAM2_HOME" in result.stdout
