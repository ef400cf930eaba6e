"""Stands in for the trainer: does what a script says, so that the supervisor is tested without a model.

The script of rank 0, `script-0.json` beside the job, is a list with one list of actions for each attempt:
["steps", n], ["die", signal], ["exit", code], ["event", {...}], ["hang", phase], ["native hang", phase];
as the only one ["silent", 0], a hang before the first heartbeat.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

# Loaded by its path: the package around it would bring torch, which takes seconds a start.
_PATH = Path(__file__).resolve().parents[3] / "tasks" / "training" / "heartbeat.py"
_SPEC = importlib.util.spec_from_file_location("heartbeat", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
heartbeat_module = importlib.util.module_from_spec(_SPEC)
sys.modules["heartbeat"] = heartbeat_module
_SPEC.loader.exec_module(heartbeat_module)

STEP_SECONDS = 0.01


def emit(event: dict[str, Any]) -> None:
    print("@@" + json.dumps(event), flush=True)


def act(action: list[Any], heartbeat: Any, done: int) -> int:
    """Carry out one action; return the updates done after it."""
    kind, value = action[0], action[1]
    if kind == "steps":
        for step in range(done + 1, done + value + 1):
            heartbeat.enter("update", step)
            emit({"event": "step", "step": step, "seconds": STEP_SECONDS})
        return done + value
    if kind == "event":
        emit(value)
    elif kind == "die":
        os.kill(os.getpid(), value)
    elif kind == "exit":
        sys.exit(value)
    elif kind in ("hang", "native hang"):
        if kind == "native hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
        else:
            signal.signal(signal.SIGUSR1, lambda *_: print("the stack", flush=True))
        heartbeat.enter(value, done, "shard train-00003")
        while True:
            time.sleep(0.05)
    return done


def main(job_path: Path) -> None:
    """Play the next attempt of the script."""
    job = json.loads(job_path.read_text())
    rank = int(os.environ.get("RANK", "0"))
    script_path = job_path.with_name(f"script-{rank}.json")
    script = json.loads(script_path.read_text())
    actions, rest = script[0], script[1:]
    script_path.write_text(json.dumps(rest))
    (job_path.with_name(f"micro-batch-{rank}-{len(rest)}")).write_text(str(job["config"]["micro_batch"]))
    if actions[0][0] == "silent":
        time.sleep(600)
    heartbeat = heartbeat_module.Heartbeat(Path(job["checkpoints"]).parent / "heartbeats", rank)
    done = 0
    for action in actions:
        done = act(action, heartbeat, done)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
