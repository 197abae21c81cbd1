"""`ravenctl status` on a screen: services, their subscriptions and newest errors, in as much room as there is; pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ravencore.records import Subscription
from ravenctl.services import Seen, current
from ravenctl.statusview import ago, published, rate

STATE_STYLES = {
    **dict.fromkeys(("RUNNING", "FLOWING"), "green"),
    **dict.fromkeys(("STARTING", "WAITING", "CONNECTING", "SUBSCRIBED", "SILENT", "DEGRADED", "RESTARTING"), "yellow"),
    **dict.fromkeys(("FAILED", "REFUSED", "gone", "silent"), "bold red"),
}
OLD_US = 24 * 3_600_000_000
"""An instance that has said nothing for so long is history."""
ERRORS, ERRORS_WATCHED = 10, 3
LEAST_FEEDS = 3
DROPPED = ("REPORTED", "UP", "DEAD", "GAPS", "WRITTEN", "BY", "LAST GAP")
"""Columns that a narrow screen does without, the first one first."""
SHRINKS, SHRUNK = "LAST GAP", 10
"""A column that may be cut to the age that it begins with."""

Column = tuple[str, Callable[..., Text | str]]


class Feed(NamedTuple):
    """A subscription and who holds it; or several of one channel and state, of which the newest times are told."""

    it: Subscription
    symbol: str
    by: str


def show(
    found: Sequence[Seen], now_us: int, width: int, height: int | None = None, away: str | None = None
) -> RenderableType:
    """Services and their subscriptions; with a height no more lines than that, as far as that can be.

    `away` says why what is shown may be old.
    """
    found = [
        one for one in current(found) if one.member or one.status is None or now_us - one.status.reported_time < OLD_US
    ]
    errors = _errors(found, now_us, ERRORS if height is None else ERRORS_WATCHED)
    services = _table(_SERVICES, found, now_us, width)
    room = None
    if height is not None:
        room = max(LEAST_FEEDS, height - len(found) - 1 - 3 - (len(errors) + 1 if errors else 0))
    feeds, left_out = _fitting(_feeds(found), room)
    parts: list[RenderableType] = [*([Text(away, style="bold red")] if away else []), services]
    if feeds:
        parts += ["", _table(_FEEDS, feeds, now_us, width)]
    if left_out:
        parts.append(Text(f"... and {left_out} more: `ravenctl status | less` shows all", style="dim"))
    if errors:
        cut = height is not None
        parts += ["", *(Text(line, no_wrap=cut, overflow="ellipsis" if cut else "fold") for line in errors)]
    return Group(*parts)


def _errors(found: Iterable[Seen], now_us: int, most: int) -> list[str]:
    """The newest, one line each."""
    told = sorted((one for one in found if one.error and one.error_time), key=lambda one: -(one.error_time or 0))
    return [f"{one.instance}, {ago(now_us - (one.error_time or 0))}: {one.error}" for one in told[:most]]


def _feeds(found: Iterable[Seen]) -> list[Feed]:
    """Of services that are there; those that do not flow come first."""
    feeds = [Feed(it, it.symbol, one.instance) for one in found if one.is_there and one.status
             for it in one.status.subscriptions]  # fmt: skip
    return sorted(feeds, key=lambda feed: (*_kind(feed), feed.symbol))


def _kind(feed: Feed) -> tuple[bool, str, str, str, str]:
    return feed.it.state == "FLOWING", feed.it.venue, feed.it.channel, feed.it.state, feed.by


def _fitting(feeds: list[Feed], room: int | None) -> tuple[list[Feed], int]:
    """As many as there is room for, symbols of a channel together where that is not all; and how many are left out."""
    if room is None or len(feeds) <= room:
        return feeds, 0
    grouped = [_together(list(alike)) for _, alike in groupby(feeds, _kind)]
    if len(grouped) <= room:
        return grouped, 0
    return grouped[: room - 1], len(grouped) - (room - 1)


def _together(alike: Sequence[Feed]) -> Feed:
    first = alike[0]
    if len(alike) == 1:
        return first
    newest = max(alike, key=lambda feed: feed.it.last_received_time or 0).it
    gap = max(alike, key=lambda feed: feed.it.last_gap_time or 0).it
    together = Subscription(
        venue=first.it.venue,
        channel=first.it.channel,
        symbol="",
        state=first.it.state,
        last_received_time=newest.last_received_time,
        last_gap_time=gap.last_gap_time,
        last_gap_cause=gap.last_gap_cause,
    )
    return Feed(together, f"{len(alike)} symbols", first.by)


def _state(state: str) -> Text:
    return Text(state, style=STATE_STYLES.get(state, "dim"))


def _count(name: str) -> Callable[[Seen, int], str]:
    def told(one: Seen, _: int) -> str:
        counters = one.status.counters if one.status else {}
        return f"{counters[name]:,}" if name in counters else "-"

    return told


def _rate(one: Seen, _: int) -> str:
    found = rate(one.status) if one.status and one.is_there else None
    return "-" if found is None else f"{found:,.0f}"


def _lag(one: Seen, _: int) -> str:
    return f"{sum(one.status.lag.values()):,}" if one.status and one.status.lag else "-"


def _written(one: Seen, _: int) -> str:
    found = published(one.status) if one.status else None
    return "-" if found is None else f"{found:,}"


def _up(one: Seen, now_us: int) -> str:
    """For how long it has been running."""
    return ago(now_us - one.status.started_time).removesuffix(" ago") if one.status and one.is_there else "-"


def _reported(one: Seen, now_us: int) -> str:
    return ago(now_us - one.status.reported_time) if one.status else "-"


def _restarts(one: Seen, _: int) -> Text | str:
    """How often it may still be restarted, where a supervisor counts."""
    if one.member is None or one.member.restarts_left is None:
        return "-"
    left = one.member.restarts_left
    return Text(f"{left} left", style="" if left > 3 else "bold red" if left == 0 else "yellow")


def _last_record(feed: Feed, now_us: int) -> Text:
    """When the last record came; of a silent feed it stands out."""
    told = "-" if feed.it.last_received_time is None else ago(now_us - feed.it.last_received_time)
    return Text(told, style=STATE_STYLES["SILENT"] if feed.it.state == "SILENT" else "")


def _last_gap(feed: Feed, now_us: int) -> str:
    if feed.it.last_gap_time is None:
        return "-"
    return f"{ago(now_us - feed.it.last_gap_time)} {feed.it.last_gap_cause or ''}".rstrip()


_SERVICES: tuple[Column, ...] = (
    (
        "INSTANCE",
        lambda one, _: one.instance if one.instance.startswith(one.service) else f"{one.service} {one.instance}",
    ),
    ("STATE", lambda one, _: _state(one.state)),
    ("RATE/S", _rate),
    ("LAG", _lag),
    ("WRITTEN", _written),
    ("GAPS", _count("gaps")),
    ("DEAD", _count("dead_letters")),
    ("UP", _up),
    ("REPORTED", _reported),
    ("RESTARTS", _restarts),
)
_FEEDS: tuple[Column, ...] = (
    ("VENUE", lambda feed, _: feed.it.venue),
    ("CHANNEL", lambda feed, _: feed.it.channel),
    ("SYMBOL", lambda feed, _: feed.symbol),
    ("STATE", lambda feed, _: _state(feed.it.state)),
    ("LAST RECORD", _last_record),
    ("LAST GAP", _last_gap),
    ("BY", lambda feed, _: feed.by),
)
_NUMBERS = {"RATE/S", "LAG", "WRITTEN", "GAPS", "DEAD", "UP", "REPORTED", "RESTARTS", "LAST RECORD"}


def _table(columns: Sequence[Column], rows: Sequence[Seen | Feed], now_us: int, width: int) -> Table:
    """With the columns that there is room for."""
    cells = {name: [cell(row, now_us) for row in rows] for name, cell in columns}
    widths = {name: max(map(cell_len, (name, *map(str, column)))) for name, column in cells.items()}
    between = 2 if _least(widths, 2) <= width else 1
    for name in DROPPED:
        if _least(widths, between) > width:
            widths.pop(name, None)
    if SHRINKS in widths:
        others = _least(widths, between) - min(widths[SHRINKS], SHRUNK)
        widths[SHRINKS] = max(SHRUNK, min(widths[SHRINKS], width - others))
    table = Table(box=None, pad_edge=False, padding=(0, between, 0, 0), header_style="bold")
    for name, cell_width in widths.items():
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=True, max_width=cell_width)
    for row in zip(*(cells[name] for name in widths), strict=True):
        table.add_row(*row)
    return table


def _least(widths: Mapping[str, int], between: int) -> int:
    return sum(min(size, SHRUNK) if name == SHRINKS else size for name, size in widths.items()) + between * len(widths)
