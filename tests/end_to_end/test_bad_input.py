"""Bad input ends in one clear error that names the place and the fix, at the user's own terminal."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import RunningStack

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]


#: Refused by what the configuration says, before a server is asked.
REFUSED = {
    "an unknown key": ("miniature", "quality.minimum_charcters=5"),
    "an impossible combination": ("miniature", "model.feed_forward_width=300"),
    "an unknown profile": ("gigantic", "quality.minimum_characters=5"),
}


@dataclass(frozen=True)
class Refusals:
    """What `sam2 run` says to each of `REFUSED`, where it would have written, and the runs before and after."""

    results: dict[str, subprocess.CompletedProcess[str]]
    root: Path
    before: list[str]
    after: list[str]


@pytest.fixture(scope="module")
def refusals(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Refusals:
    """All at once: each command takes seconds to import what it checks the configuration with."""
    root = tmp_path_factory.mktemp("refused")

    def refuse(case: tuple[str, str]) -> subprocess.CompletedProcess[str]:
        profile, override = case
        return stack.command("sam2", "run", "--profile", profile, "--set", f"artifact_root={root}", "--set", override)

    before = [run.id for run in stack.runs.latest(5)]
    with ThreadPoolExecutor() as together:
        results = dict(zip(REFUSED, together.map(refuse, REFUSED.values()), strict=True))
    return Refusals(results, root, before, [run.id for run in stack.runs.latest(5)])


def test_what_is_refused_runs_and_writes_nothing(refusals: Refusals) -> None:
    assert {result.returncode for result in refusals.results.values()} == {1}
    assert refusals.after == refusals.before
    assert list(refusals.root.iterdir()) == []


def test_an_unknown_key_is_refused_with_the_known_one(refusals: Refusals) -> None:
    said = refusals.results["an unknown key"].stderr
    assert "unknown key 'quality.minimum_charcters' (did you mean 'minimum_characters'?)" in said
    assert "Traceback" not in said


def test_an_impossible_combination_is_refused_with_the_fix(refusals: Refusals) -> None:
    assert "feed_forward_width 300 is not a multiple of 256" in refusals.results["an impossible combination"].stderr


def test_an_unknown_profile_lists_the_known_ones(refusals: Refusals) -> None:
    said = refusals.results["an unknown profile"].stderr
    assert "there is no profile 'gigantic'" in said
    assert "smoke" in said


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
