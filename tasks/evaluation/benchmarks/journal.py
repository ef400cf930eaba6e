"""What a model has answered, batch by batch, on disk: an evaluation that was killed asks nothing twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import xxhash

from infra.storage.checksum import checksum_bytes
from infra.storage.local import explained_write_errors

#: `report(done, all)` items of one kind of request.
Report = Callable[[int, int], None]


class Journal:
    """An append-only file of answers by the batch they belong to; one process writes at a time.

    Each line has its checksum; a line torn by a kill is cut off, and its batch asked again. Answers are JSON values:
    numbers come back bit for bit. `asked` counts the items of batches that were not found.
    """

    def __init__(self, path: Path | None) -> None:
        """None keeps nothing."""
        self._path = path
        self._answers: dict[str, list[Any]] = {}
        self.asked = 0
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._read(path)

    def answers(self, kind: str, batch: list[Any], ask: Callable[[], list[Any]]) -> list[Any]:
        """The answers to a batch: those on record, or what `ask` returns, recorded before they are used."""
        key = f"{kind}:{xxhash.xxh3_128_hexdigest(orjson.dumps(batch))}"
        if key not in self._answers:
            answers = ask()
            assert len(answers) == len(batch), "one answer an item"
            self._append(key, answers)
            self._answers[key] = answers
            self.asked += len(batch)
        return self._answers[key]

    def __len__(self) -> int:
        return len(self._answers)

    def _read(self, path: Path) -> None:
        """Take in whole lines; cut off the file at the first one that is not."""
        content = path.read_bytes() if path.exists() else b""
        good = 0
        for line in content.splitlines(keepends=True):
            record = _checked(line)
            if record is None:
                break
            self._answers[record["batch"]] = record["answers"]
            good += len(line)
        if good < len(content):
            with path.open("r+b") as file:
                file.truncate(good)
                os.fsync(file.fileno())

    def _append(self, key: str, answers: list[Any]) -> None:
        if self._path is None:
            return
        body = orjson.dumps({"batch": key, "answers": answers})
        with explained_write_errors(self._path), self._path.open("ab") as file:
            file.write(body[:-1] + b',"checksum":"' + checksum_bytes(body).encode() + b'"}\n')
            file.flush()
            os.fsync(file.fileno())


def _checked(line: bytes) -> dict[str, Any] | None:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not line.endswith(b"\n") or not isinstance(record, dict):
        return None
    checksum = record.pop("checksum", None)
    return record if checksum == checksum_bytes(orjson.dumps(record)) else None
