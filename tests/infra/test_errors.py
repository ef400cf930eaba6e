"""Errors cross process borders whole."""

from __future__ import annotations

import pickle

from infra.errors import SourceError
from infra.processes import ChildFailed


def test_errors_survive_pickling_between_worker_processes() -> None:
    copy = pickle.loads(pickle.dumps(SourceError("the disk is gone.", "plug it in.")))
    assert isinstance(copy, SourceError)
    assert (copy.problem, copy.fix, str(copy)) == (
        "the disk is gone.",
        "plug it in.",
        "the disk is gone. Fix: plug it in.",
    )


def test_so_do_errors_with_a_signature_of_their_own() -> None:
    error = ChildFailed(["trainer", "job.json"], 9, ["last words"])
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, ChildFailed)
    assert (str(copy), copy.exit_code) == (str(error), 9)
