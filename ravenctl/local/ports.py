"""Loopback ports: the usual ones when they are free, others when they are not."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ravenctl.local.errors import StackError

LOOPBACK = "127.0.0.1"
# Below the range from which systems take ports for outgoing connections: while a server is down for a
# restart its port must not be taken by a client, not even by one that connects to itself.
OTHER_PORTS = range(15000, 32000)

_reserved: dict[int, int] = {}
"""Descriptors of the locks held, by port."""


def is_free(port: int) -> bool:
    """Whether a server could listen on the loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def reserve(port: int) -> bool:
    """Keep other stacks that start now off the port, until this process ends; False when one of them has it.

    A server takes seconds until it binds. Two stacks that chose the same port would both find it answering, and one
    of them would talk to the other's server.
    """
    if port in _reserved:
        return True
    try:
        lock = os.open(Path(tempfile.gettempdir()) / f"raven-port-{port}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return True  # another user's file: theirs to keep to
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return False
    _reserved[port] = lock
    return True


def choose(wanted: Iterable[int], taken: set[int]) -> int:
    """The first free port of `wanted`, else any other free one; adds it to `taken`."""
    others = random.sample(OTHER_PORTS, 200)
    for port in (*wanted, *others):
        if port and port not in taken and is_free(port) and reserve(port):
            taken.add(port)
            return port
    raise StackError("no free loopback port found; is something using all of 15000-32000?")
