"""What runs, from both who know: each service says so in `raven.status`, a local stack's supervisor sees it."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ravencore.codec import iso_time, plain
from ravencore.records import ServiceStatus
from ravenctl.local.state import MemberState, StackState
from ravenctl.shell import SERVICES
from ravenctl.statusview import Statuses, is_gone

NOTHING_REPORTED: Mapping[str, Any] = {
    **dict.fromkeys(ServiceStatus.__struct_fields__),
    "subscriptions": [],
    "counters": {},
    "gauges": {},
    "lag": {},
}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """An instance of a service; `status` None: it has not reported, `member` None: no supervisor here knows it.

    `state` is one of a status, RESTARTING, `silent` (its process is there and it says nothing), or `gone`.
    """

    service: str
    instance: str
    state: str
    status: ServiceStatus | None
    member: MemberState | None
    error: str | None = None
    error_time: int | None = None

    @property
    def is_there(self) -> bool:
        """Whether it reports, and has not said that it has stopped."""
        return self.state in ("UNKNOWN", "STARTING", "RUNNING", "DEGRADED") and self.status is not None


def seen(statuses: Statuses, stack: StackState | None, now_us: int) -> list[Seen]:
    """Every instance that either knows, in the order of the stream; of servers those that do not run."""
    members = supervised(stack)
    names = {instance: name for instance, (name, _) in members.items()}
    names |= {instance: status.service for instance, status in statuses.items()}
    found = [
        _one(names[instance], instance, statuses.get(instance), members.get(instance, (None, None))[1], now_us)
        for instance in names
    ]
    return sorted(found, key=lambda one: (rank(one.service), one.service, one.instance))


def current(found: Collection[Seen]) -> list[Seen]:
    """Without instances that have ended before another one of their service began: every container is a new one."""
    newest: dict[str, int] = {}
    for one in found:
        newest[one.service] = max(newest.get(one.service, 0), one.status.started_time if one.status else 0)
    return [
        one
        for one in found
        if one.member or one.is_there or not one.status or newest[one.service] <= one.status.reported_time
    ]


def rank(service: str) -> int:
    """Its place in the order of the stream: collectors, engines, sinks, whatever else there is."""
    return next((place for place, name in enumerate(SERVICES) if service.startswith(name)), len(SERVICES))


def supervised(stack: StackState | None) -> dict[str, tuple[str, MemberState]]:
    """Members by the instance names that the supervisor gives them; of servers those that do not run."""
    members = stack.members.items() if stack else ()
    return {
        name if member.server else f"{name}-0": (name, member)
        for name, member in members
        if not member.server or member.state != "running"
    }


def _one(service: str, instance: str, status: ServiceStatus | None, member: MemberState | None, now_us: int) -> Seen:
    state = _state(service, status, member, now_us)
    error, error_time = (status.last_error, status.last_error_time) if status else (None, None)
    since_us = int(member.since * 1e6) if member else 0
    if member and member.last_exit and member.state != "stopped" and (error_time or 0) < since_us:
        error, error_time = _last_words(member), since_us
    return Seen(
        service=service,
        instance=instance,
        state=state,
        status=status,
        member=member,
        error=error,
        error_time=error_time,
    )


def _state(service: str, status: ServiceStatus | None, member: MemberState | None, now_us: int) -> str:
    """The supervisor sees an end at once, and a new start before the service can say so."""
    if member and member.state in ("failed", "restarting", "stopped"):
        return member.state.upper()
    if member and (status is None or status.reported_time < member.since * 1e6):
        return "STARTING" if service in SERVICES else member.state.upper()
    if status is None:
        return "UNKNOWN"
    if is_gone(status, now_us):
        return "silent" if member else "gone"
    return status.state


def heard(found: Iterable[Seen]) -> list[ServiceStatus]:
    """Statuses that are still true: of no instance that has died, hangs or is gone since, or ended beside another."""
    found = list(found)
    there = {one.service for one in found if one.is_there}
    return [
        one.status
        for one in found
        if one.status and one.state == one.status.state and (one.is_there or one.service not in there)
    ]


def down(found: Iterable[Seen]) -> dict[str, str]:
    """Why services are not there, by name, as far as their supervisor here knows."""
    away = (one for one in found if one.member and (one.status is None or one.state != one.status.state))
    whys = [
        (one.service, one.state, one.error or ("its process hangs" if one.state == "silent" else "")) for one in away
    ]
    return {name: f"{state}, {why}" for name, state, why in whys if why}


def _last_words(member: MemberState) -> str:
    """How its last life ended."""
    spent = ", its restarts are spent" if member.state == "failed" and member.restarts else ""
    again = spent or (f", restart {member.restarts}" if member.restarts else "")
    # What one that was killed had written last is no reason.
    said = member.last_error and not (member.last_exit or "").startswith("killed")
    words = f": {member.last_error[-1]}" if said else ""
    return f"{member.last_exit}{again}{words}"


def for_scripts(one: Seen, now_us: int) -> dict[str, Any]:
    """An instance as JSON values: a status, null where it has not reported, and what a supervisor says."""
    told = plain(one.status) if one.status else NOTHING_REPORTED
    member = one.member
    return {**told} | {
        "service": one.service,
        "instance": one.instance,
        "state": one.status.state if one.status and one.state in ("gone", "silent") else one.state,
        "last_error": one.error,
        "last_error_time": one.error_time and iso_time(one.error_time),
        "gone": one.status is not None and is_gone(one.status, now_us),
        "supervisor": member.state if member else None,
        "restarts": member.restarts if member else None,
        "restarts_left": member.restarts_left if member else None,
        "last_exit": member.last_exit if member else None,
    }
