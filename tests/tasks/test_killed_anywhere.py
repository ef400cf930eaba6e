"""Fifty kills at random moments across the data stages: the final shards are those of an undisturbed run."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 50
STAGES = {"download", "quality", "deduplication", "tokenization"}


@pytest.mark.slow
def test_fifty_kills_change_no_byte(tmp_path: Path) -> None:
    seed = random.randrange(10**9)  # the moments are meant to differ from run to run
    command = [sys.executable, str(Path(__file__).with_name("killing_chain.py")), str(tmp_path), str(KILLS), str(seed)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert finished.returncode == 0, f"seed {seed}: {finished.stderr[-3000:]}"
    result = json.loads(finished.stdout.splitlines()[-1])
    assert sum(result["kills"].values()) >= KILLS
    assert set(result["kills"]) == STAGES, result["kills"]
    for checksums in result["disturbed"]:
        assert checksums == result["expected"], f"seed {seed}"
