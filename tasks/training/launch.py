"""The command and environment of the trainer's processes: one, several on this machine, or several machines.

Several processes are started by torchrun rather than by DeepSpeed's launcher, which imports DeepSpeed twice more
before it starts. On several machines the stage runs on the first; on each other one `sam2 join` waits for it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from infra.processes import child_environment
from infra.quiet import QUIET_ENVIRONMENT
from infra.storage.local import atomic_file
from tasks.training.config import TrainingStageConfig

TRAINER_MODULE = "tasks.training.trainer"
ATTEMPT_FILE = "attempt.json"
_PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Attempt:
    """One start of all ranks, as the first machine tells the others.

    number: counted from 1; 0 says that the stage is finished. ranks: on all machines.
    """

    number: int
    ranks: int
    nodes: int
    address: str
    threads_per_rank: int

    def write(self, job_path: Path) -> None:
        """Leave it beside the job, where the other machines look."""
        with atomic_file(job_path.with_name(ATTEMPT_FILE)) as stream:
            stream.write(json.dumps(self.__dict__).encode())

    @classmethod
    def read(cls, job_path: Path) -> Attempt | None:
        """The newest attempt, or None before the first."""
        try:
            return cls(**json.loads(job_path.with_name(ATTEMPT_FILE).read_bytes()))
        except FileNotFoundError:
            return None

    @classmethod
    def of(cls, number: int, config: TrainingStageConfig) -> Attempt:
        """An attempt at a stage."""
        address = config.rendezvous_address or "127.0.0.1:0"
        return cls(number, config.ranks, config.nodes, address, config.threads_per_rank)

    def ranks_of(self, node: int) -> range:
        """The ranks that one machine runs."""
        count = self.ranks // self.nodes
        return range(node * count, (node + 1) * count)


def trainer_command(attempt: Attempt, job_path: Path, node: int = 0, module: str = TRAINER_MODULE) -> list[str]:
    """What starts this machine's share of the ranks."""
    program = ["-m", module, str(job_path)]
    if attempt.ranks == 1:
        return [sys.executable, *program]
    return [sys.executable, "-m", "torch.distributed.run", *_rendezvous(attempt, node), *program]


def _rendezvous(attempt: Attempt, node: int) -> list[str]:
    ranks_here = len(attempt.ranks_of(node))
    if attempt.nodes == 1:
        return ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(ranks_here)]
    host, _, port = attempt.address.rpartition(":")
    return [
        *("--nnodes", str(attempt.nodes)),
        *("--node-rank", str(node)),
        *("--nproc-per-node", str(ranks_here)),
        *("--master-addr", host),
        *("--master-port", port),
    ]


def trainer_environment(attempt: Attempt) -> dict[str, str]:
    """This environment with what the ranks need; on one machine nothing leaves its loopback interface."""
    changes = {
        **QUIET_ENVIRONMENT,
        "OMP_NUM_THREADS": str(attempt.threads_per_rank),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_PROJECT), os.environ.get("PYTHONPATH", "")])),
    }
    if attempt.nodes == 1:
        changes["GLOO_SOCKET_IFNAME"] = "lo"
    return child_environment(changes)


def word_path(job_path: Path, attempt: int, node: int) -> Path:
    """Where a machine other than the first leaves what its ranks had to say about their end."""
    return job_path.with_name(f"word-{attempt}-{node}.jsonl")
