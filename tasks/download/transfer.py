"""Files over HTTP: in ranges fetched in parallel, continued after a kill, verified, retried with back-off.

RFC 9110: a range is asked for with `If-Range`, so that ranges of two versions of a file never meet; a server without
ranges or without a strong validator is read in one go. Each finished range is noted beside the file, on disk before
it is noted.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
import orjson

from infra.errors import SourceError
from infra.storage.local import atomic_file, explained_write_errors, sync_directory
from tasks.download.progress import Observer, Throughput, observe_transfer

_PARTIAL, _RANGE_NOT_SATISFIABLE = 206, 416
_WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_WAIT_SECONDS = 120.0
_OBSERVE_SECONDS = 0.5

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class TransferSettings:
    """How a file is fetched; the defaults suit large files on the open internet."""

    connections: int = 4
    range_bytes: int = 16 << 20
    #: Attempts in a row without a new byte after which the transfer is given up.
    attempts: int = 6
    back_off_seconds: float = 0.5
    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 30.0
    #: A connection slower than this over the window is closed and opened anew.
    slowest_bytes_per_second: float = 1024.0
    slow_window_seconds: float = 30.0
    most_bytes_per_second: float | None = None
    maximum_bytes: int | None = None


def fetch(
    address: str,
    target: Path,
    source_name: str,
    *,
    sha256: str | None = None,
    settings: TransferSettings | None = None,
    observer: Observer = observe_transfer,
) -> None:
    """Fetch `address` to `target`, continuing what an earlier attempt left in `target.part`.

    Two processes that want the same file take turns; the second finds it there. `observer` is called from
    this thread about twice a second; what it raises ends the transfer, which can be continued. Raises
    SourceError (naming source, address and reason) when the server refuses, stays silent, sends something
    other than `sha256`, or more than `maximum_bytes`; StorageFull when the disk is full.
    """
    with explained_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(target):
            if target.is_file():
                return
            _Transfer(address, target, source_name, settings or TransferSettings(), observer).run(sha256)


class _Retry(Exception):
    """This attempt failed; another may not. `wait_seconds` is what the server asked for."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class _Changed(Exception):
    """The file on the server is no longer the one that was begun."""


class _Stopped(Exception):
    """Another connection failed, or the observer ended the transfer."""


@dataclass
class _State:
    """What is known of the file and which ranges are on disk (`done`, by index)."""

    address: str
    size_bytes: int
    validator: str
    range_bytes: int
    done: set[int] = field(default_factory=set)

    def span(self, index: int) -> tuple[int, int]:
        """First byte and end of a range."""
        start = index * self.range_bytes
        return start, min(start + self.range_bytes, self.size_bytes)

    @property
    def missing(self) -> list[int]:
        return [index for index in range(-(-self.size_bytes // self.range_bytes)) if index not in self.done]


class _Transfer:
    """One file on its way."""

    def __init__(
        self, address: str, target: Path, source_name: str, settings: TransferSettings, observer: Observer
    ) -> None:
        self._address = address
        self._target = target
        self._part = target.with_name(target.name + ".part")
        self._notes = target.with_name(target.name + ".part.json")
        self._source_name = source_name
        self._settings = settings
        self._observer = observer
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._received = 0
        self._total: int | None = None
        self._started = time.monotonic()
        self._pace = _Pace(settings.most_bytes_per_second)
        timeout = httpx.Timeout(settings.read_timeout_seconds, connect=settings.connect_timeout_seconds)
        self._client = httpx.Client(timeout=timeout, follow_redirects=True)

    def run(self, sha256: str | None) -> None:
        with self._client:
            for _ in range(self._settings.attempts):
                try:
                    self._fetch_all()
                    break
                except _Changed:
                    self._forget()
            else:
                raise self._failure("the file changes on the server while it is fetched")
        self._verify(sha256)
        self._part.replace(self._target)
        sync_directory(self._target.parent)
        self._notes.unlink(missing_ok=True)

    def _fetch_all(self) -> None:
        state = self._load_state()
        if state is None:
            with ThreadPoolExecutor(1, thread_name_prefix="transfer") as pool:
                begun = pool.submit(self._patiently, self._begin)
                self._watch([begun])
                state = begun.result()
        if state is not None:
            self._total = state.size_bytes
            self._received = sum(stop - start for start, stop in map(state.span, state.done))
            with ThreadPoolExecutor(self._settings.connections, thread_name_prefix="transfer") as pool:
                self._watch([pool.submit(self._fetch_range, state, index) for index in state.missing])
        self._observe()

    def _begin(self) -> _State | None:
        """Ask for the first byte: learns size, validator and whether ranges work; without them, takes everything."""
        with self._get({"Range": "bytes=0-0"}) as response:
            if response.status_code == _RANGE_NOT_SATISFIABLE:  # an empty file has no first byte
                self._part.write_bytes(b"")
                return None
            if response.status_code != _PARTIAL:
                self._take_whole(response)
                return None
            validator, size = _validator(response), _content_range(response)[2]
        if not validator or size < 0:
            # Ranges without a validator could belong to different versions.
            with self._get({}) as response:
                self._take_whole(response)
            return None
        self._check_size(size)
        with self._part.open("wb") as stream:
            stream.truncate(size)
        state = _State(self._address, size, validator, self._settings.range_bytes)
        self._save(state)
        return state

    def _take_whole(self, response: httpx.Response) -> None:
        length = response.headers.get("content-length", "")
        self._total = int(length) if length.isdigit() else None
        self._check_size(self._total or 0)
        self._received = 0
        with self._part.open("wb") as stream:
            for block in self._blocks(response):
                stream.write(block)
                self._count(len(block))
                self._check_size(self._received)
            stream.flush()
            os.fsync(stream.fileno())
        if self._total is not None and self._received != self._total:
            raise _Retry(f"the answer ended after {self._received} of {self._total} bytes")

    def _watch(self, futures: Sequence[Future[Any]]) -> None:
        """Wait for all; the first error, or what the observer raises, stops the rest."""
        pending = set(futures)
        try:
            while pending:
                finished, pending = wait(pending, _OBSERVE_SECONDS, FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                self._observe()
        except BaseException:
            self._stop.set()
            for future in pending:
                future.cancel()
            wait(pending)
            self._stop.clear()
            raise

    def _fetch_range(self, state: _State, index: int) -> None:
        """One range, continued from its last byte after every failure."""
        start, stop = state.span(index)
        place = [start]  # the next byte that is missing
        self._patiently(lambda: self._continue_range(state, place, stop), lambda: place[0])
        with self._lock:
            state.done.add(index)
            self._save(state)

    def _continue_range(self, state: _State, place: list[int], stop: int) -> None:
        headers = {"Range": f"bytes={place[0]}-{stop - 1}", "If-Range": state.validator}
        with self._get(headers) as response:
            if response.status_code != _PARTIAL:
                raise _Changed
            first, _, size = _content_range(response)
            if size not in (state.size_bytes, -1) or _validator(response) not in (state.validator, ""):
                raise _Changed
            if first != place[0]:
                raise _Retry("the server sent another range than asked for")
            descriptor = os.open(self._part, os.O_WRONLY)
            try:
                for block in self._blocks(response):
                    data = block[: stop - place[0]]
                    os.pwrite(descriptor, data, place[0])
                    place[0] += len(data)
                    self._count(len(data))
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        if place[0] != stop:
            raise _Retry(f"the answer ended {stop - place[0]} bytes early")

    def _patiently(self, attempt: Callable[[], ResultT], progress: Callable[[], int] = lambda: 0) -> ResultT:
        """Try until it works; attempts that brought no new byte are counted."""
        failures, before = 0, progress()
        while True:
            most = self._settings.attempts
            try:
                return attempt()
            except _Retry as error:
                reason, asked = str(error), error.wait_seconds
            except httpx.ConnectError as error:
                reason, asked = str(error) or "no connection", None
                most = most if self._received else 2  # no network, or a wrong name: say so soon
            except httpx.HTTPError as error:
                reason, asked = str(error) or type(error).__name__, None
            failures = failures + 1 if progress() == before else 1
            before = progress()
            if failures >= most:
                raise self._failure(reason)
            back_off = self._settings.back_off_seconds * 2.0 ** (failures - 1) * random.uniform(0.5, 1.0)  # noqa: S311
            if self._stop.wait(min(asked if asked is not None else back_off, _LONGEST_WAIT_SECONDS)):
                raise _Stopped

    @contextmanager
    def _get(self, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """An answer with content. Without a content encoding, positions in it are positions in the file."""
        wanted = {"Accept-Encoding": "identity", **headers}
        with self._client.stream("GET", self._address, headers=wanted) as response:
            if self._address.startswith("https:") and response.url.scheme != "https":
                raise self._failure(f"it leads to '{response.url.host}' without encryption")
            status = response.status_code
            if status in _WORTH_ANOTHER_TRY:
                raise _Retry(f"the server answered {status}", _retry_after(response))
            if status >= 400 and status != _RANGE_NOT_SATISFIABLE:
                raise self._failure(f"the server answered {status}")
            if status == _RANGE_NOT_SATISFIABLE and "If-Range" in headers:
                raise _Changed  # it is shorter than it was
            if status == _PARTIAL and "Range" not in headers:
                raise _Retry("the server sent a part of the file unasked")
            yield response

    def _blocks(self, response: httpx.Response) -> Iterator[bytes]:
        """The answer's bytes as they arrive (gathered ones would be lost with the connection)."""
        window_started, window_bytes = time.monotonic(), 0
        for block in response.iter_raw():
            if self._stop.is_set():
                raise _Stopped
            yield block
            window_bytes += len(block)
            self._pace.wait(len(block), self._stop)
            elapsed = time.monotonic() - window_started
            if elapsed >= self._settings.slow_window_seconds:
                if window_bytes < self._settings.slowest_bytes_per_second * elapsed:
                    raise _Retry(f"the connection slowed down to {window_bytes / elapsed:.0f} bytes per second")
                window_started, window_bytes = time.monotonic(), 0

    def _count(self, size_bytes: int) -> None:
        with self._lock:
            self._received += size_bytes

    def _check_size(self, size_bytes: int) -> None:
        most = self._settings.maximum_bytes
        if most is not None and size_bytes > most:
            self._forget()
            raise self._failure(f"it is larger than the {most} bytes allowed")

    def _observe(self) -> None:
        self._observer(Throughput(self._received, self._total, time.monotonic() - self._started))

    def _verify(self, sha256: str | None) -> None:
        if sha256 is not None and _file_sha256(self._part) != sha256:
            self._forget()
            raise SourceError(
                f"source '{self._source_name}': '{self._address}' does not have the SHA-256 {sha256}.",
                "check `sha256`, or run again if the download was damaged; the bad file was removed.",
            )

    def _load_state(self) -> _State | None:
        """What an earlier attempt noted, when it is about this file and its bytes are there."""
        try:
            notes = orjson.loads(self._notes.read_bytes())
            done = set(notes.pop("done"))
            state = _State(**notes, done=done)
            fits = state.address == self._address and self._part.stat().st_size == state.size_bytes
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
            return None
        return state if fits else None

    def _save(self, state: _State) -> None:
        with atomic_file(self._notes) as stream:
            stream.write(orjson.dumps({**asdict(state), "done": sorted(state.done)}))

    def _forget(self) -> None:
        self._notes.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)

    def _failure(self, reason: str) -> SourceError:
        return SourceError(
            f"source '{self._source_name}': '{self._address}' cannot be downloaded: {reason}.",
            "check the address and the network and run again (what arrived is kept), or mark the source `optional`.",
        )


class _Pace:
    """Keeps the connections together below a rate."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def wait(self, size_bytes: int, stop: threading.Event) -> None:
        if self._rate is None:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size_bytes / self._rate
            pause = self._free_at - time.monotonic()
        stop.wait(max(pause, 0.0))


@contextmanager
def _only_one(target: Path) -> Iterator[None]:
    """One process at a time fetches a file; the lock ends with its process."""
    with target.with_name(f".{target.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _validator(response: httpx.Response) -> str:
    """What `If-Range` accepts: a strong entity tag, else the date of the last change, else nothing."""
    tag: str = response.headers.get("etag", "")
    return tag if tag and not tag.startswith("W/") else str(response.headers.get("last-modified", ""))


def _content_range(response: httpx.Response) -> tuple[int, int, int]:
    """First byte, last byte and size of `Content-Range: bytes 100-199/200`; -1 for what is not said."""
    span, _, size = response.headers.get("content-range", "").removeprefix("bytes ").partition("/")
    first, _, last = span.partition("-")
    return tuple(int(part) if part.isdigit() else -1 for part in (first, last, size))  # type: ignore[return-value]


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait. A date is compared with the server's own, whatever our clock says."""
    value = response.headers.get("retry-after", "").strip()
    if value.isdigit():
        return float(value)
    try:
        until, now = parsedate_to_datetime(value), parsedate_to_datetime(response.headers.get("date", ""))
        return max((until - now).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


def _file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
