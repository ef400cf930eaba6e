"""Which port a server gets."""

from __future__ import annotations

import socket

import psutil

from infra.stack.errors import PortTaken, StackError

PORTS_TRIED = 100


def choose_port(host: str, asked: int | None, default: int, option: str, taken: frozenset[int] = frozenset()) -> int:
    """The port the user asked for, or else the default, or else the next free one after it.

    Raises:
        PortTaken: the user asked for a port that another process holds.
        StackError: no port is free in a wide range.
    """
    if asked is None:
        return _next_free_port(host, default, taken)
    if asked in taken or not port_is_free(host, asked):
        raise PortTaken(asked, option, port_holder(asked), _next_free_port(host, asked + 1, taken))
    return asked


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. A port whose old connections are still closing counts as free."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def port_holder(port: int) -> str | None:
    """Name and id of the process that listens on a port, when this user may know."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return None
    for connection in connections:
        listens = connection.status == psutil.CONN_LISTEN and getattr(connection.laddr, "port", None) == port
        if listens and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
            except psutil.NoSuchProcess:
                return None
    return None


def _next_free_port(host: str, first: int, taken: frozenset[int]) -> int:
    for port in range(first, min(first + PORTS_TRIED, 65536)):
        if port not in taken and port_is_free(host, port):
            return port
    raise StackError(
        f"No free port from {first} to {first + PORTS_TRIED - 1} on {host}.",
        "stop some servers, or choose ports with SAM2_PREFECT_PORT and SAM2_MLFLOW_PORT.",
    )
