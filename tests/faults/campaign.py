"""Does to a small training run what machines, disks and networks do, at random moments, and compares the end.

    python -m tests.faults.campaign [--faults 60] [--ranks 1] [--seed 0] [--updates 400]

Two campaigns. In the first every fault is outside the mathematics: kills, stop signals, hung processes, torn and lost
checkpoints, a full disk, an object store that fails; the losses and weights of the end must equal, bit for bit, those
of the same run left alone. In the second some batches are poisoned (a loss that is no number, random tokens) and the
run is killed besides: the end must equal the poisoned run without kills, and what was skipped and how the learning
rate fell must be what the policy says. Nobody touches the run in between. Exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from safetensors import safe_open

from infra.processes import stop_tree
from tasks.tokenization.token_shards import write_token_shard
from tasks.training import TrainingStageConfig
from tasks.training.incidents import Incident, IncidentLog
from tasks.training.job import HISTORY_FILE, ROLL_BACK_FILE, TrainingJob
from tasks.training.policy import RestartPolicy, RollBackPolicy
from tasks.training.roll_back import RollBack, rate_share, skipped_batches
from tasks.training.supervision import Supervisor
from tests.support.fault_proxy import Fault, FaultProxy, always, first
from tests.tasks.training.conftest import make_documents, stage_config

MODULE = "tests.faults.faulty_trainer"
_DISK_BYTES = 16 << 20
_HANG_SECONDS = 5.0
_OUTAGE_SECONDS = 3.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much is done to the run. hang_at_start: whether a process may freeze before its first update, too, which is
    noticed only after all the time that a start may take.
    """

    faults: int
    updates: int
    ranks: int = 1
    seed: int = 0
    poisoned: int = 3
    kinds: tuple[str, ...] = ()
    hang_at_start: bool = True


@dataclass
class Outcome:
    """What a campaign did and how it ended: `differences` are sentences, none when all is equal."""

    struck: Counter[str] = field(default_factory=Counter)
    incidents: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0


def campaign_config(plan: Plan) -> TrainingStageConfig:
    """A small run with a checkpoint every four updates."""
    return stage_config(
        tokens=plan.updates * 256,
        ranks=plan.ranks,
        zero_stage=2 if plan.ranks > 1 else 0,
        micro_batch=2,
        checkpoint_every_fraction=4 / plan.updates,
        validate_every_fraction=0.25,
        roll_back=RollBackPolicy(window=16, spike_rise=0.7, spike_deviations=6, rate_recovery_steps=10, maximum=20),
        restart=RestartPolicy(
            maximum=20, backoff_seconds=0.0, hang_seconds=_HANG_SECONDS, start_seconds=8 * _HANG_SECONDS
        ),
    )


def write_corpus(directory: Path) -> None:
    """Documents with something to learn, as token shards."""
    for split, count in (("train-00000", 300), ("validation-00000", 12)):
        documents = make_documents(count, seed=count)
        write_token_shard(directory / split, documents, [0] * count, [len(ids) for ids in documents], np.dtype("<u2"))


def make_job(config: TrainingStageConfig, corpus: Path, directory: Path, remote: str | None = None) -> TrainingJob:
    """The run in a directory of its own."""
    return TrainingJob(
        config=config,
        train_shards=[corpus / "train-00000"],
        validation_shards=[corpus / "validation-00000"],
        source_names=["phrases"],
        previous=None,
        output=directory,
        checkpoints=directory / ".scratch" / "checkpoints",
        checkpoints_remote=remote,
    )


class Run:
    """One supervised run, and what it told."""

    def __init__(self, job: TrainingJob, poison: Mapping[str, list[int]] | None, say: Say) -> None:
        self.job = job
        self.poison = poison
        self.incidents = IncidentLog(job.output / "incidents.jsonl")
        self._say = say

    def finish(self, injector: Injector | None = None) -> None:
        """Train to the end."""
        self.job.output.mkdir(parents=True, exist_ok=True)
        if self.poison:
            (self.job.output / "poison.json").write_text(json.dumps(self.poison))

        def on_event(event: Mapping[str, Any]) -> None:
            if event["event"] == "warning":
                self._say(f"    trainer: {event['text']}")
            if event["event"] == "step" and injector is not None:
                injector.on_step(event["step"])

        def on_incident(incident: Incident) -> None:
            self._say(f"    {incident.describe()}")
            if injector is not None:
                injector.on_start()

        Supervisor(
            self.job,
            self.job.output / "job.json",
            self.incidents,
            on_event,
            lambda line: None,
            on_incident,
            module=MODULE,
        ).run()

    def roll_backs(self) -> list[dict[str, Any]]:
        """What the trainer went back for."""
        path = self.job.output / ROLL_BACK_FILE
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def history(self) -> list[dict[str, Any]]:
        """One entry an update."""
        return [json.loads(line) for line in (self.job.output / HISTORY_FILE).read_text().splitlines()]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights and the optimiser's state at the end."""
        found = {}
        for folder in ("model", "optimizer"):
            for path in sorted((self.job.output / folder).rglob("*.safetensors")):
                with safe_open(path, framework="pt") as file:
                    found.update({f"{folder}/{path.name}/{key}": file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        return found


class Injector:
    """Strikes a run with one fault after another, each a few updates after the last one was got over."""

    def __init__(self, plan: Plan, directory: Path, proxy: FaultProxy | None, balloon: Path | None, say: Say) -> None:
        self.struck: Counter[str] = Counter()
        self._random = random.Random(plan.seed)
        self._directory = directory
        self._proxy, self._balloon, self._say = proxy, balloon, say
        kinds = tuple(
            kind
            for kind in plan.kinds or FAULTS
            if (proxy is not None or not FAULTS[kind].needs_store) and (balloon is not None or kind != "full disk")
        )
        rounds = -(-plan.faults // len(kinds))
        self._coming = list(kinds) * rounds
        self._random.shuffle(self._coming)
        del self._coming[plan.faults :]
        self._hang_at_start = plan.hang_at_start
        self._steps_to_go = 3
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def on_step(self, step: int) -> None:
        """An update was made: strike if it is time."""
        self._steps_to_go -= 1
        if self._steps_to_go <= 0:
            # Also between updates, and while a checkpoint is being written.
            self._in(self._random.uniform(0, 0.05))
            self._steps_to_go = self._random.randint(3, 9)

    def on_start(self) -> None:
        """The trainer is started again: sometimes it is struck before its first update."""
        self._steps_to_go = self._random.randint(1, 9)
        waits = not self._hang_at_start and self._coming[-1:] == ["hung process"]
        if self._random.random() < 0.15 and not waits:
            self._in(self._random.uniform(0.2, 5))

    def stop(self) -> None:
        """No more faults; what stays of earlier ones is removed."""
        if self._timer is not None:
            self._timer.cancel()
        self._coming.clear()
        self._relieve()

    def _in(self, seconds: float) -> None:
        if self._timer is None or not self._timer.is_alive():
            self._timer = threading.Timer(seconds, self._strike)
            self._timer.daemon = True
            self._timer.start()

    def _strike(self) -> None:
        with self._lock:
            if not self._coming:
                return
            ranks = trainer_processes()
            if not ranks:
                return
            kind = self._coming.pop()
            self._say(f"  fault {sum(self.struck.values()) + 1}: {kind}")
            FAULTS[kind].strike(self, ranks)
            self.struck[kind] += 1

    # The faults

    def kill(self, ranks: list[psutil.Process]) -> None:
        """SIGKILL to one rank."""
        _send(self._random.choice(ranks), signal.SIGKILL)

    def terminate(self, ranks: list[psutil.Process]) -> None:
        """SIGTERM to every rank, as a machine that is taken away sends it."""
        for rank in ranks:
            _send(rank, signal.SIGTERM)

    def freeze(self, ranks: list[psutil.Process]) -> None:
        """SIGSTOP to one rank: it neither works nor ends."""
        _send(self._random.choice(ranks), signal.SIGSTOP)

    def tear(self, ranks: list[psutil.Process]) -> None:
        """SIGKILL, and the newest checkpoint loses its end, a bit or a file."""
        self.kill(ranks)
        newest = max(self._directory.glob("step-*"), default=None)
        files = [path for path in newest.iterdir() if path.is_file()] if newest else []
        if not files:
            return
        path = self._random.choice(files)
        damage = self._random.choice(["cut", "flip", "remove"])
        with contextlib.suppress(FileNotFoundError):  # the dying process may be removing it
            if damage == "remove":
                path.unlink()
            elif damage == "cut":
                os.truncate(path, self._random.randrange(path.stat().st_size + 1))
            else:
                content = bytearray(path.read_bytes())
                content[self._random.randrange(len(content))] ^= 1 << self._random.randrange(8)
                path.write_bytes(bytes(content))

    def lose_the_disk(self, ranks: list[psutil.Process]) -> None:
        """SIGKILL, and everything on this machine's disk is gone: another machine goes on from the object store."""
        self.kill(ranks)
        shutil.rmtree(self._directory, ignore_errors=True)

    def fill_the_disk(self, ranks: list[psutil.Process]) -> None:
        """No byte left on the disk of the checkpoints, for some seconds."""
        assert self._balloon is not None
        with contextlib.suppress(OSError), self._balloon.open("wb") as stream:
            while True:
                stream.write(b"\0" * 65536)
                stream.flush()
        self._later(_OUTAGE_SECONDS, self._relieve)

    def fail_requests(self, ranks: list[psutil.Process]) -> None:
        """A few requests to the object store are refused, cut off, or carried out without an answer."""
        assert self._proxy is not None
        fault = self._random.choice(
            [
                lambda: Fault(status=503, code="SlowDown", strikes=first(3)),
                lambda: Fault(method="PUT", cut_request_after=100, strikes=first(2)),
                lambda: Fault(method="PUT", lose_answer=True, strikes=first(2)),
                lambda: Fault(method="GET", cut_response_after=50, strikes=first(2)),
                lambda: Fault(status=500, code="InternalError", strikes=first(4)),
            ]
        )
        self._proxy.add(fault())

    def take_the_store_away(self, ranks: list[psutil.Process]) -> None:
        """The object store refuses everything for some seconds."""
        assert self._proxy is not None
        self._proxy.add(Fault(status=503, code="ServiceUnavailable", strikes=always))
        self._later(_OUTAGE_SECONDS, self._proxy.clear)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, action)
        timer.daemon = True
        timer.start()

    def _relieve(self) -> None:
        if self._balloon is not None:
            self._balloon.unlink(missing_ok=True)
        if self._proxy is not None:
            self._proxy.clear()


@dataclass(frozen=True)
class Kind:
    """A kind of fault. needs_store: whether it is about the object store."""

    strike: Callable[[Injector, list[psutil.Process]], None]
    needs_store: bool = False


FAULTS: dict[str, Kind] = {
    "kill -9": Kind(Injector.kill),
    "SIGTERM": Kind(Injector.terminate),
    "hung process": Kind(Injector.freeze),
    "torn checkpoint": Kind(Injector.tear),
    "full disk": Kind(Injector.fill_the_disk),
    "lost disk": Kind(Injector.lose_the_disk, needs_store=True),
    "failed S3 requests": Kind(Injector.fail_requests, needs_store=True),
    "S3 outage": Kind(Injector.take_the_store_away, needs_store=True),
}


def trainer_processes() -> list[psutil.Process]:
    """The ranks: processes below this one that run the trainer, torchrun itself left out."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            command = child.cmdline()
            if MODULE in command and "torch.distributed.run" not in command:
                found.append(child)
    return found


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def differences(found: Run, expected: Run) -> list[str]:
    """Sentences about what is not equal bit for bit."""
    told = []
    ours, theirs = found.history(), expected.history()
    if len(ours) != len(theirs):
        told.append(f"{len(ours)} updates in the history, not {len(theirs)}")
    for one, other in zip(ours, theirs, strict=False):
        if one != other:
            told.append(f"the history differs first at update {one['step']}: {one} is not {other}")
            break
    tensors, wanted = found.tensors(), expected.tensors()
    if tensors.keys() != wanted.keys():
        told.append(f"other tensors: {sorted(tensors.keys() ^ wanted.keys())[:3]}")
    told += [f"{name} differs" for name in wanted if name in tensors and not torch.equal(tensors[name], wanted[name])]
    return told


def policy_differences(run: Run, poisoned: set[int]) -> list[str]:
    """Whether a poisoned run's outcome is what its policy documents."""
    config, history = run.job.config, run.history()
    roll_backs = [RollBack.from_json(record) for record in run.roll_backs()]
    told = []
    if {roll_back.batch for roll_back in roll_backs} != poisoned:
        found = sorted(roll_back.batch for roll_back in roll_backs)
        told.append(f"rolled back at batches {found}, poisoned were {sorted(poisoned)}")
    skipped = set(skipped_batches(roll_backs, config.roll_back))
    if trained := skipped & {entry["batch"] for entry in history if entry["step"]}:
        told.append(f"the batches {sorted(trained)} were to be skipped and were trained on")
    for entry in history:
        if not entry["step"]:
            continue
        update = entry["step"] - 1
        expected = config.learning_rate_at(update) * rate_share(update, roll_backs, config.roll_back)
        if abs(entry["learning_rate"] - expected) > 1e-12:
            told.append(f"update {entry['step']} was made at {entry['learning_rate']}, the policy says {expected}")
            break
    return told


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[Path | None]:
    """A file system of a few megabytes at `directory`, where one can be mounted; its balloon file, else None."""
    directory.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(directory)]
    made = subprocess.run(["mount", *options], capture_output=True, check=False)
    if made.returncode:
        yield None
        return
    try:
        yield directory / "balloon"
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@contextlib.contextmanager
def object_store() -> Iterator[tuple[FaultProxy, str]]:
    """An S3 server on loopback behind a proxy that fails on demand; the proxy, and the URI of a bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells of every request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    before = {name: os.environ.get(name) for name in names}
    try:
        with FaultProxy(f"http://{host}:{port}") as proxy:
            os.environ.update(zip(names, (proxy.endpoint, "key", "secret", "us-east-1"), strict=True))
            boto3.session.Session().client("s3").create_bucket(Bucket="campaign")
            yield proxy, "s3://campaign/run"
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def exact_campaign(plan: Plan, directory: Path, say: Say) -> Outcome:
    """Faults that must leave no trace."""
    started, outcome = time.monotonic(), Outcome()
    corpus = directory / "corpus"
    corpus.mkdir(parents=True)
    write_corpus(corpus)
    config = campaign_config(plan)
    say("the run left alone")
    undisturbed = Run(make_job(config, corpus, directory / "undisturbed"), None, say)
    undisturbed.finish()
    with small_disk(directory / "disk") as balloon, object_store() as (proxy, remote):
        if balloon is None:
            say("no small file system can be mounted here: no full disk in this campaign")
        disturbed = Run(make_job(config, corpus, directory / "disk" / "disturbed", remote), None, say)
        injector = Injector(plan, disturbed.job.checkpoints, proxy, balloon, say)
        say(f"the same run under {plan.faults} faults")
        try:
            disturbed.finish(injector)
        finally:
            injector.stop()
        outcome.struck = injector.struck
        outcome.incidents.update(incident["kind"] for incident in disturbed.incidents.read())
        outcome.differences = differences(disturbed, undisturbed)
    if sum(outcome.struck.values()) < plan.faults:
        outcome.differences.append(f"only {sum(outcome.struck.values())} of {plan.faults} faults struck; add updates")
    outcome.seconds = time.monotonic() - started
    return outcome


def poison_campaign(plan: Plan, directory: Path, say: Say) -> Outcome:
    """Poisoned batches with kills besides: the policy's outcome, and the kills leave no trace."""
    started, outcome = time.monotonic(), Outcome()
    corpus = directory / "corpus"
    corpus.mkdir(parents=True)
    write_corpus(corpus)
    config = campaign_config(plan)
    generator = random.Random(plan.seed)
    numbers = sorted(generator.sample(range(24, plan.updates - 4), 2 * plan.poisoned))
    poison = {"nan": numbers[::2], "noise": numbers[1::2]}
    say(f"batches without a loss: {poison['nan']}; of random tokens: {poison['noise']}")
    alone = Run(make_job(config, corpus, directory / "alone"), poison, say)
    alone.finish()
    disturbed = Run(make_job(config, corpus, directory / "disturbed"), poison, say)
    kills = Plan(plan.faults, plan.updates, plan.ranks, plan.seed, kinds=("kill -9", "SIGTERM"))
    injector = Injector(kills, disturbed.job.checkpoints, None, None, say)
    try:
        disturbed.finish(injector)
    finally:
        injector.stop()
    outcome.struck = injector.struck + Counter({"loss that is no number": plan.poisoned, "spike": plan.poisoned})
    outcome.incidents.update(incident["kind"] for incident in disturbed.incidents.read())
    outcome.differences = [*differences(disturbed, alone), *policy_differences(disturbed, set(numbers))]
    outcome.seconds = time.monotonic() - started
    return outcome


def show(title: str, outcome: Outcome) -> None:
    """Print the table of one campaign."""
    print(f"\n{title}: {sum(outcome.struck.values())} faults in {outcome.seconds:,.0f} s, no manual step")
    for kind, count in sorted(outcome.struck.items()):
        print(f"  {kind:24} {count:4}")
    told = ", ".join(f"{kind} {count}" for kind, count in sorted(outcome.incidents.items()))
    print(f"  incidents recorded: {told}")
    print("  losses and weights: " + ("equal" if not outcome.differences else "DIFFERENT"))
    for difference in outcome.differences:
        print(f"    {difference}")


def main() -> int:
    """Run both campaigns and print their tables; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=60, help="faults of the first campaign")
    parser.add_argument("--updates", type=int, default=400, help="updates of the run")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="only the tables")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text, flush=True)

    plan = Plan(arguments.faults, arguments.updates, arguments.ranks, arguments.seed)
    poison_plan = Plan(max(4, arguments.faults // 10), 100, arguments.ranks, arguments.seed)
    with tempfile.TemporaryDirectory() as directory:
        try:
            exact = exact_campaign(plan, Path(directory) / "exact", say)
            poisoned = poison_campaign(poison_plan, Path(directory) / "poison", say)
        finally:
            for process in psutil.Process().children():
                stop_tree(process.pid, 1)
    show("Faults outside the mathematics", exact)
    show("Poisoned batches, and kills besides", poisoned)
    print(f"\nfaults survived: {sum((exact.struck + poisoned.struck).values())}")
    return int(bool(exact.differences or poisoned.differences))


if __name__ == "__main__":
    sys.exit(main())
