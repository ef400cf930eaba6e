"""What generated code could harm, watched from outside."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PRECIOUS = "the only copy\n"


@dataclass
class Outside:
    """A directory with a file, a process, a listening socket, this process, and all processes that descend from it."""

    directory: Path
    victim: subprocess.Popen[bytes]
    listener: socket.socket
    children_before: set[int]
    signals: list[int] = field(default_factory=list)

    @property
    def precious(self) -> Path:
        return self.directory / "precious"

    @property
    def names(self) -> dict[str, object]:
        """What a program is told, so that nothing but the sandbox keeps it from doing harm."""
        return {
            "directory": str(self.directory),
            "precious": str(self.precious),
            "victim": self.victim.pid,
            "port": self.listener.getsockname()[1],
        }

    def harm(self) -> list[str]:
        """Everything that is not as it was."""
        found = [f"signal {number} came" for number in self.signals]
        names = sorted(path.name for path in self.directory.iterdir()) if self.directory.exists() else None
        if names != ["precious"]:
            found.append(f"the directory holds {names}")
        elif self.precious.read_text() != PRECIOUS or self.precious.stat().st_mode & 0o777 != 0o640:
            found.append("the file was changed")
        elif self.precious.stat().st_mtime != 0:
            found.append("the file's time was changed")
        if self.victim.poll() is not None:
            found.append("the process was ended")
        if self._was_connected_to():
            found.append("the socket was connected to")
        return found + [f"process {process.pid} is left" for process in self.left_over()]

    def left_over(self) -> list[psutil.Process]:
        """Processes that were not there before; orphans too, because this process adopts them."""
        children = psutil.Process().children(recursive=True)
        return [child for child in children if child.pid not in self.children_before]

    def _was_connected_to(self) -> bool:
        try:
            self.listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    """Whether the condition became true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
