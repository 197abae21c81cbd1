"""Usual ports when free, others when not."""

from __future__ import annotations

import socket
import subprocess
import sys

from ravenctl.local import ports


def test_a_wanted_port_that_is_free_is_taken_once() -> None:
    taken: set[int] = set()
    free = ports.choose((), taken)
    assert ports.choose((free,), set()) == free
    assert ports.choose((free,), taken) != free
    assert len(taken) == 2


def test_a_port_somebody_listens_on_is_not_chosen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        busy = server.getsockname()[1]
        assert not ports.is_free(busy)
        assert ports.choose((busy,), set()) in ports.OTHER_PORTS


def test_a_port_taken_on_every_interface_is_not_chosen() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert not ports.is_free(server.getsockname()[1])


def test_two_stacks_that_start_at_once_do_not_choose_the_same_port() -> None:
    """Nobody listens on it yet: that takes a server seconds."""
    chosen = ports.choose((), set())
    program = f"from ravenctl.local import ports; print(ports.choose(({chosen},), set()))"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(other.stdout) != chosen
    assert ports.is_free(chosen)
    assert ports.choose((chosen,), set()) == chosen
