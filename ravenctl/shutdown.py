"""`ravenctl shutdown`: asks services to end, in the order of the stream, and sees that they do."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import Settings
from ravencore.demands import SHUTDOWN
from ravencore.records import ServiceStatus, Shutdown
from ravenctl import control
from ravenctl.cluster import stack_of
from ravenctl.local.state import MemberState
from ravenctl.services import rank, seen, supervised
from ravenctl.shell import SERVICES, WrongUse, nearest, now_us
from ravenctl.statusview import StatusFeed, fresh, is_gone

POLL_S = 0.25


class Ended(NamedTuple):
    """Instances by what became of them; `left` are still there, those `not_asked` too, as they wait for these."""

    ended: tuple[str, ...]
    left: tuple[str, ...]
    not_asked: tuple[str, ...]
    not_running: tuple[str, ...]
    """Services that were named."""
    hanging: Mapping[str, int]
    """Process ids of those that are there, as their supervisor sees, and hear nothing."""


def shut_down(
    settings: Settings, codec: Codec, names: Sequence[str], *, user: str, timeout_s: float, say: Callable[[str], None]
) -> Ended:
    """End the services named, or all that run: collectors, engines, then sinks, each when those before it have ended.

    What is received is so still worked off. Raises WrongUse for a name that is none, Unavailable.
    """
    kafka.ensure_topics(settings.kafka)
    feed = StatusFeed(settings.kafka, codec)
    try:
        feed.catch_up()
        running = fresh(feed.latest, now_us())
        _check(names, feed.latest)
        chosen = [status for status in running if not names or status.service in names]
        found = seen(feed.latest, stack_of(settings), now_us())
        silent = [one for one in found if one.state == "silent" and (not names or one.service in names)]
        hanging = {one.instance: one.member.pid for one in silent if one.member and one.member.pid}
        there = {*(status.service for status in chosen), *(one.service for one in silent)}
        not_running = tuple(name for name in names if name not in there)
        deadline = time.monotonic() + timeout_s
        left: list[str] = []
        not_asked: list[str] = []
        for _, group in groupby(sorted(chosen, key=_rank), _rank):
            instances = list(group)
            if left:
                not_asked += [status.instance for status in instances]
                continue
            _ask(settings, codec, {status.service for status in instances}, user)
            say(f"asked to end: {', '.join(status.instance for status in instances)}")
            left += _await_end(settings, feed, instances, deadline, say)
    finally:
        feed.close()
    ended = tuple(status.instance for status in chosen if status.instance not in (*left, *not_asked))
    return Ended(ended, tuple(left), tuple(not_asked), not_running, hanging)


def told(done: Ended, timeout_s: float) -> Iterator[str]:
    """What became of it, in a person's words."""
    for name in done.not_running:
        yield f"{name}: does not run"
    if done.left:
        yield f"still there after {timeout_s:g} s: {', '.join(done.left)}: see its log, or end its process"
    if done.not_asked:
        yield f"not asked, as they work off what those bring: {', '.join(done.not_asked)}"
    for name, pid in done.hanging.items():
        yield f"{name} hangs: end its process with `kill -9 {pid}`, its supervisor then starts it again"
    if done.ended and not done.left:
        yield f"{len(done.ended)} ended"
    elif not (done.left or done.hanging):
        yield "nothing ran"


def _rank(status: ServiceStatus) -> int:
    """Sinks are one group."""
    return min(rank(status.service), 2)


def _check(names: Iterable[str], statuses: Mapping[str, ServiceStatus]) -> None:
    known = dict.fromkeys((*SERVICES, *(status.service for status in statuses.values())))
    for name in names:
        if name not in known:
            raise WrongUse(f"there is no service {name}: {nearest(name, known)}")


def _ask(settings: Settings, codec: Codec, services: Iterable[str], user: str) -> None:
    asked = (Shutdown(service=name, user=user, requested_time=now_us()) for name in sorted(services))
    control.write(settings.kafka, {f"{SHUTDOWN}{one.service}": codec.encode(one) for one in asked})


def _await_end(
    settings: Settings,
    feed: StatusFeed,
    instances: Iterable[ServiceStatus],
    deadline: float,
    say: Callable[[str], None],
) -> list[str]:
    """Those that are still there at the deadline."""
    asked_us = now_us()
    left = {status.instance: status for status in instances}
    while left and time.monotonic() < deadline:
        feed.poll(POLL_S)
        members = supervised(stack_of(settings))
        for name, before in list(left.items()):
            _, member = members.get(name, ("", None))
            how = _exit(member, asked_us) if member else _goodbye(before, feed.latest.get(name))
            if how:
                del left[name]
                say(f"  {name} {how}")
    return list(left)


def _exit(member: MemberState, asked_us: int) -> str | None:
    """How a process that a supervisor here sees has ended; None while it is there, whatever it has reported."""
    if member.state == "stopped":
        return "ended"
    if member.state in ("failed", "restarting"):
        return str(member.last_exit)
    return "ended, and was started again" if member.since * 1e6 > asked_us else None


def _goodbye(before: ServiceStatus, now: ServiceStatus | None) -> str | None:
    """How an instance has ended, as far as its reports tell; None while it is there."""
    if now is None or now.state == "STOPPED":
        return "ended"
    if now.started_time != before.started_time:
        return "ended, and was started again"
    return "reports no more: it is gone" if is_gone(now, now_us()) else None
