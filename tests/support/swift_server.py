"""OpenStack Swift with its S3 interface on loopback: a production object store, from pip packages alone.

`SwiftServer.start(directory)` runs this file as a child, which imports Swift once, builds the rings, and forks the
account, container, object and proxy servers and a small cache. Each dies with its parent, so nothing survives the
test session, even one ended by SIGKILL. Swift keeps metadata in extended attributes: `why_not(directory)` says when
the file system has none.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pwd
import signal
import socket
import socketserver
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

ACCESS_KEY = "test:tester"
SECRET_KEY = "testing"
REGION = "us-east-1"
START_SECONDS = 90.0
_SERVERS = ("account", "container", "object")
_PR_SET_PDEATHSIG = 1

_COMMON = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {etc}
devices = {devices}
mount_check = false
log_address = {etc}/no-syslog
log_level = ERROR
"""

_BACK_END = (
    _COMMON
    + """
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""
)

_PROXY = (
    _COMMON
    + """
[pipeline:main]
pipeline = catch_errors healthcheck cache listing_formats bulk s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{cache_port}
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
s3_acl = false
dns_compliant_bucket_names = true
min_segment_size = 65536
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:slo]
use = egg:swift#slo
rate_limit_after_segment = 1000
[filter:dlo]
use = egg:swift#dlo
"""
)

_SWIFT_CONF = """\
[swift-hash]
swift_hash_path_prefix = loopback
swift_hash_path_suffix = loopback
[storage-policy:0]
name = one
default = yes
"""


def why_not(directory: Path) -> str | None:
    """Why Swift cannot run with its data in `directory`, or None when it can."""
    for package in ("swift", "pyeclib"):
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed"
    probe = directory / "xattr-probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.swift.metadata", b"x" * 200)
    except OSError as error:
        return f"the file system of {directory} keeps no user extended attributes ({error.strerror})"
    finally:
        probe.unlink()
    return None


@dataclass
class SwiftServer:
    """A running server. `endpoint` is for AWS_ENDPOINT_URL_S3."""

    endpoint: str
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, directory: Path) -> SwiftServer:
        """Start below `directory` (made, and left to the caller); raises RuntimeError with the log's end.

        Call from a thread that outlives the server: the kernel's death signal follows the thread that forked.
        """
        directory.mkdir(parents=True, exist_ok=True)
        log = directory / "server.log"
        for _ in range(3):  # a free port can be taken between the look and the bind
            ports = free_ports(5)
            with log.open("ab") as stream:
                process = subprocess.Popen(
                    [sys.executable, __file__, str(directory), str(os.getpid()), *map(str, ports)],
                    stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
                )  # fmt: skip
            server = cls(f"http://127.0.0.1:{ports[3]}", process)
            if server._answers(ports):
                return server
            server.stop()
        raise RuntimeError(f"Swift did not start:\n{log.read_text(errors='replace')[-3000:]}")

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """The environment in which boto3 finds the server (or a proxy in front of it)."""
        return {
            "AWS_ENDPOINT_URL_S3": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def stop(self) -> None:
        """End all its processes."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        self.process.wait(timeout=20)

    def _answers(self, ports: list[int]) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                for port in ports:
                    socket.create_connection(("127.0.0.1", port), timeout=5).close()
                urllib.request.urlopen(f"{self.endpoint}/healthcheck", timeout=5).read()
                return True
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        return False


def free_ports(count: int) -> list[int]:
    """Loopback ports nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]


def _die_with(parent: int, by: signal.Signals) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(by))
    if os.getppid() != parent:
        os._exit(1)


def _write_configuration(directory: Path, ports: dict[str, int], cache_port: int) -> Path:
    etc, devices = directory / "etc", directory / "devices"
    user = pwd.getpwuid(os.geteuid()).pw_name
    etc.mkdir(exist_ok=True)
    (devices / "d1").mkdir(parents=True, exist_ok=True)
    (etc / "swift.conf").write_text(_SWIFT_CONF)
    for name, port in ports.items():
        template = _PROXY if name == "proxy" else _BACK_END
        values = {
            "name": name,
            "port": port,
            "user": user,
            "etc": etc,
            "devices": devices,
            "cache_port": cache_port,
        }
        (etc / f"{name}.conf").write_text(template.format(**values))
    return etc


def _build_rings(etc: Path, ports: dict[str, int]) -> None:
    from swift.common.ring import RingBuilder

    for name in _SERVERS:
        builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
        device = {"region": 1, "zone": 1, "weight": 1.0, "ip": "127.0.0.1", "port": ports[name], "device": "d1"}
        builder.add_dev({**device, "replication_ip": "127.0.0.1", "replication_port": ports[name]})
        builder.rebalance()
        builder.get_ring().save(str(etc / f"{name}.ring.gz"))


class _Cache(socketserver.StreamRequestHandler):
    """As much of memcached as Swift's proxy asks: without it every request looks up account and container anew."""

    items: ClassVar[dict[bytes, tuple[bytes, bytes]]] = {}

    def handle(self) -> None:
        while command := self.rfile.readline().split():
            self.wfile.write(self._answer(*command))

    def _answer(self, name: bytes, key: bytes, *rest: bytes) -> bytes:
        if name == b"get" and key in self.items:
            flags, value = self.items[key]
            return b"VALUE %s %s %d\r\n%s\r\nEND\r\n" % (key, flags, len(value), value)
        if name == b"get":
            return b"END\r\n"
        if name == b"set":
            self.items[key] = (rest[0], self.rfile.read(int(rest[2]) + 2)[:-2])
            return b"STORED\r\n"
        if name == b"delete":
            return b"NOT_FOUND\r\n" if self.items.pop(key, None) is None else b"DELETED\r\n"
        return b"ERROR\r\n"


def _serve(directory: Path, parent: int, ports: list[int]) -> None:
    """The child's main: start the four servers and wait; the first to end ends all."""
    _die_with(parent, signal.SIGKILL)
    by_name = dict(zip((*_SERVERS, "proxy"), ports[:4], strict=True))
    etc = _write_configuration(directory, by_name, ports[4])
    launcher = os.getpid()
    if os.fork() == 0:
        _die_with(launcher, signal.SIGKILL)
        socketserver.ThreadingTCPServer(("127.0.0.1", ports[4]), _Cache).serve_forever()
    import swift.common.utils as swift_utils

    swift_utils.SWIFT_CONF_FILE = str(etc / "swift.conf")
    from swift.common import wsgi

    _build_rings(etc, by_name)
    for name in by_name:
        if os.fork() == 0:
            _die_with(launcher, signal.SIGKILL)
            os._exit(wsgi.run_wsgi(str(etc / f"{name}.conf"), f"{name}-server"))
    os.wait()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]), [int(port) for port in sys.argv[3:]])
