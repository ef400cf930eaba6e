"""One real stack for all end-to-end tests, in a temporary home, on free ports, beside whatever runs already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.stack import StackSettings, StackState, start_stack, stop_stack
from infra.stack.runs import FlowRun, PrefectRuns
from infra.stack.settings import source_directory

SCRIPTS = Path(sys.executable).parent
#: What the temporary project shares with the checkout. A folder of its own, because the stack writes the
#: server's address into the project folder, and a stack of the user's may be running in the checkout.
SHARED = ("flows", "prefect.yaml", "pyproject.toml")


@dataclass(frozen=True)
class RunningStack:
    """The servers, and how tests talk to them."""

    settings: StackSettings
    state: StackState
    runs: PrefectRuns

    def command(self, name: str, *arguments: str, seconds: float = 540) -> subprocess.CompletedProcess[str]:
        """Run a command of the virtual environment in the project folder, as a user would."""
        project = self.settings.project
        return subprocess.run(
            [str(SCRIPTS / name), *arguments],
            cwd=project,
            env={**os.environ, "PWD": str(project), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def run_pipeline(self, artifact_root: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
        """`sam2 run` of the miniature profile into `artifact_root`."""
        assignments = [f"artifact_root={artifact_root}", *overrides]
        return self.command("sam2", "run", "--profile", "miniature", *(x for a in assignments for x in ("--set", a)))

    def latest(self) -> FlowRun:
        return self.runs.latest(1)[0]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    directory = tmp_path_factory.mktemp("stack")
    project = directory / "project"
    project.mkdir()
    for name in SHARED:
        (project / name).symlink_to(source_directory() / name)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFECT_PROFILES_PATH", str(directory / "profiles.toml"))
        environment.setenv("SAM2_HOME", str(directory / "home"))
        environment.setenv("SAM2_PROJECT", str(project))
        for name in ("PREFECT_API_URL", "SAM2_PREFECT_PORT", "SAM2_MLFLOW_PORT"):
            environment.delenv(name, raising=False)
        settings = StackSettings.from_environment()
        state = start_stack(settings)
        yield RunningStack(settings, state, PrefectRuns(state.prefect_api_url))
        stop_stack(settings)


@pytest.fixture(scope="session")
def finished_run(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, FlowRun]:
    """One uninterrupted miniature run: its artifacts, its terminal output, and the run itself."""
    root = tmp_path_factory.mktemp("artifacts")
    result = stack.run_pipeline(root)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-3000:]
    return root, result.stdout, stack.latest()


def content_checksums(root: Path) -> dict[str, str]:
    """kind/fingerprint -> one checksum over the artifact's files."""
    from infra.artifacts import ArtifactStore

    store = ArtifactStore.open(str(root), root / ".cache")
    return {f"{m.kind}/{m.fingerprint}": m.content_checksum for m in store.manifests()}


def read_summary(stack: RunningStack, run: FlowRun) -> dict:
    return json.loads((stack.settings.runs_directory / run.id / "summary.json").read_text())
