"""What a shut-in interpreter may read, as a Landlock ruleset (landlock(7)), where the kernel has it."""

from __future__ import annotations

import ctypes
import struct
import sys
import sysconfig
from pathlib import Path

#: The same number on every architecture, as are all system calls since Linux 5.3.
_CREATE_RULESET = 444
_QUERY_VERSION = 1

# LANDLOCK_ACCESS_FS_*: READ_FILE and READ_DIR are all that is ever given back.
_READ_FILE, _READ_DIRECTORY = 1 << 2, 1 << 3
_ALL_OF_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_BIND_AND_CONNECT = 0b11  # since version 4: TCP
_OUTSIDE_SIGNALS_AND_SOCKETS = 0b11  # since version 6


def landlock_version() -> int:
    """The kernel's Landlock version; 0 when it has none or has it turned off."""
    if sys.platform != "linux":
        return 0
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    return max(0, int(syscall(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint(_QUERY_VERSION))))


def ruleset(version: int) -> bytes:
    """`struct landlock_ruleset_attr`: everything this version can refuse is refused."""
    files = _ALL_OF_VERSION[max(known for known in _ALL_OF_VERSION if known <= version)]
    attributes = struct.pack("<QQQ", files, _BIND_AND_CONNECT, _OUTSIDE_SIGNALS_AND_SOCKETS)
    return attributes[: 24 if version >= 6 else 16 if version >= 4 else 8]


def readable() -> dict[Path, int]:
    """The places that Python itself needs, and the access given to each: the standard library, the system's
    shared libraries, and what the C library looks up.
    """
    prefix = Path(sys.base_prefix)
    libraries = [prefix / "lib", prefix / "lib64", *map(Path, ("/lib", "/lib64", "/usr/lib", "/usr/lib64"))]
    standard = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    files = map(Path, ("/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/urandom"))
    directories = [*standard, *libraries, Path("/usr/share/zoneinfo")]
    rules = {path.resolve(): _READ_FILE | _READ_DIRECTORY for path in directories if path.is_dir()}
    return rules | {path.resolve(): _READ_FILE for path in files if path.exists()}
