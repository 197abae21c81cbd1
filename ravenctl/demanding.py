"""The commands that say what shall run: start, collect, stop, stop-all, plan, user, graph."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ravenctl.shell import (
    EXIT_CODES,
    AllUsers,
    AsJson,
    Bootstrap,
    Coin,
    Exclude,
    Include,
    Outputs,
    Quote,
    RavenGroup,
    Stores,
    Symbols,
    Timeout,
    User,
    Venues,
    WrongUse,
    console,
    given_bootstrap,
    now_us,
    shell_word,
    show,
    telling,
)

if TYPE_CHECKING:
    from ravencore.config import Settings
    from ravencore.records import Demand, ServiceStatus
    from ravenctl.demands import Wanted
    from ravenctl.plans import Plan, Thing

app = typer.Typer(cls=RavenGroup)
Ids = Annotated[
    list[str] | None, typer.Option("--id", metavar="ID", help="The demand that `ravenctl user` lists so; repeatable.")
]


@app.command(epilog=EXIT_CODES)
def start(
    ctx: typer.Context,
    *,
    symbol: Symbols = None,
    coin: Coin = None,
    quote: Quote = None,
    venue: Venues = None,
    venue_include: Include = None,
    venue_exclude: Exclude = None,
    outputs: Outputs = None,
    into: Stores = None,
    user: User = None,
    timeout: Timeout = "60s",  # type: ignore[assignment]
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Demand an instrument and wait until it flows, and bars and stores run; or say what does not, and why.

    It is collected from every venue that lists it, or from those named. Without a symbol: all that is configured, in
    the safe order (stores, engine, collector; then instruments, whole markets, what is asked for over REST, Deribit).
    A demand for an output is one for all that it is made of; what is demanded twice runs until both are withdrawn.

    Example: ravenctl start --symbol BTCUSDT
    Example: ravenctl start --coin ETH --quote USDC --venue KRAKEN --with tib,vpin --into timescale
    Example: ravenctl start --venue DERIBIT
    """
    from ravenctl.cluster import check, resolve

    settings = resolve(given_bootstrap(ctx, bootstrap))
    want = _wanted(
        settings,
        symbol=symbol,
        coin=coin,
        quote=quote,
        venues=(venue, venue_include, venue_exclude),
        outputs=outputs,
        stores=into,
        user=user,
    )
    check(settings)
    _start(settings, want, timeout, strict=bool(want.symbols and venue), as_json=as_json)


@app.command(epilog=EXIT_CODES)
def collect(
    ctx: typer.Context,
    *,
    coin: Annotated[str, typer.Option("--coin", metavar="COIN", help="For example BTC.")],
    quote: Annotated[str, typer.Option("--quote", metavar="QUOTE", help="For example USDT.")],
    user: User = None,
    timeout: Timeout = "60s",  # type: ignore[assignment]
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Demand the whole pipeline for one instrument, on all venues that list it, configured or not.

    Example: ravenctl collect --coin BTC --quote USDT
    """
    from ravenctl.cluster import reach
    from ravenctl.control import whoami
    from ravenctl.demands import VENUES, wanted

    settings = reach(given_bootstrap(ctx, bootstrap))
    want = wanted([f"{coin}/{quote}"], VENUES, user or whoami())
    _start(settings, want, timeout, strict=False, as_json=as_json)


def _start(settings: Settings, want: Wanted, timeout: float, *, strict: bool, as_json: bool) -> None:
    from ravencore import service
    from ravenctl import cluster, control, plans
    from ravenctl.demands import feeds_of, told

    needed = control.services_of(want.demands(settings.routing, 0))
    with telling(stderr=as_json) as voice:
        woken = cluster.wake(settings, needed)
        for name in woken:
            voice.say(f"{name} started")
        unmade = plans.without_profile(settings.bars).intersection(want.outputs)
        for output in sorted(unmade):
            voice.say(f"{output}: no profile is configured, so nothing is made of it: see docs/configuration.md")
        made = control.start(settings, service.codec(settings), want, timeout, voice, strict=strict)
    if as_json:
        feeds = feeds_of(made, settings.routing)
        typer.echo(json.dumps(plans.started_for_scripts(made, feeds, woken), indent=2))
        return
    channel = feeds_of(made, settings.routing)[0].channel
    typer.echo(f"running: {told(want, unmade)}. Look: ravenctl tail {channel} --follow")


@app.command(epilog=EXIT_CODES)
def stop(
    ctx: typer.Context,
    *,
    symbol: Symbols = None,
    coin: Coin = None,
    quote: Quote = None,
    venue: Venues = None,
    venue_include: Include = None,
    venue_exclude: Exclude = None,
    outputs: Outputs = None,
    into: Stores = None,
    ids: Ids = None,
    user: User = None,
    all_users: AllUsers = False,
    timeout: Timeout = "30s",  # type: ignore[assignment]
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Withdraw your demands for an instrument or a venue, and wait until all has ended that nobody else needs.

    With --with or --into: only demands that were made with just these. It says what stays, and for whom.

    Example: ravenctl stop --symbol BTCUSDT
    Example: ravenctl stop --venue KRAKEN --all-users
    """
    from ravenctl.cluster import check, resolve

    settings = resolve(given_bootstrap(ctx, bootstrap))
    want = _wanted(
        settings,
        symbol=symbol,
        coin=coin,
        quote=quote,
        venues=(venue, venue_include, venue_exclude),
        outputs=outputs,
        stores=into,
        user=user,
    )
    _check_stop(want, ids)
    check(settings)
    _stop(settings, want, ids or (), timeout, all_users=all_users, as_json=as_json)


@app.command(name="stop-all", epilog=EXIT_CODES)
def stop_all(
    ctx: typer.Context,
    *,
    user: User = None,
    all_users: AllUsers = False,
    timeout: Timeout = "30s",  # type: ignore[assignment]
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Withdraw all of your demands, or everybody's, and wait until all has ended that nobody else needs.

    Example: ravenctl stop-all
    Example: ravenctl stop-all --all-users
    """
    from ravenctl.cluster import reach
    from ravenctl.control import whoami
    from ravenctl.demands import Wanted

    settings = reach(given_bootstrap(ctx, bootstrap))
    _stop(settings, Wanted(user or whoami(), ()), (), timeout, all_users=all_users, as_json=as_json)


def _check_stop(want: Wanted, ids: list[str] | None) -> None:
    if not (want.symbols or want.venues or want.outputs or want.stores or ids):
        raise WrongUse("name a --symbol, a --venue or an --id, or withdraw all with `ravenctl stop-all`")


def _stop(
    settings: Settings, want: Wanted, ids: Sequence[str], timeout: float, *, all_users: bool, as_json: bool
) -> None:
    from ravencore import service
    from ravenctl import control, demands, plans

    def planned(standing: Mapping[str, Demand], unreadable: Collection[str]) -> Plan:
        if ids:
            for name in ids:
                _check_id(name, standing, unreadable, want.user, all_users=all_users)
            return plans.plan(standing, dict.fromkeys(ids), settings, ids)
        found = plans.plan_stop(want, standing, settings, all_users=all_users)
        others = demands.passed_over(want, standing, settings.routing, all_users=all_users)
        if others and not found.changes:
            voice.say(_passed_over(others))
        return found

    with telling(stderr=as_json) as voice:
        found = control.stop(settings, service.codec(settings), planned, timeout, voice)
    if as_json:
        typer.echo(json.dumps(plans.for_scripts(found), indent=2))


def _passed_over(demands: Sequence[Demand]) -> str:
    made = "; ".join(f"{one.demand_id}, with {_named(one.outputs)} into {_named(one.stores)}" for one in demands)
    return f"made with other outputs or stores: {made}: leave out --with and --into, or name one with --id"


def _named(names: Sequence[str]) -> str:
    return ", ".join(names) or "all"


def _check_id(
    name: str, standing: Mapping[str, Demand], unreadable: Collection[str], user: str, *, all_users: bool
) -> None:
    """Raises WrongUse for a demand that is not there, or is somebody else's."""
    if name not in standing and name not in unreadable:
        raise WrongUse(f"no demand {name!r} stands: `ravenctl user` lists those that do")
    if name in standing and standing[name].user != user and not all_users:
        raise WrongUse(f"{name} is a demand of {standing[name].user}: add --all-users to withdraw it")


@app.command(epilog=EXIT_CODES)
def plan(
    ctx: typer.Context,
    *,
    symbol: Symbols = None,
    coin: Coin = None,
    quote: Quote = None,
    venue: Venues = None,
    venue_include: Include = None,
    venue_exclude: Exclude = None,
    outputs: Outputs = None,
    into: Stores = None,
    user: User = None,
    to_stop: Annotated[bool, typer.Option("--stop", help="What a stop would do, not a start.")] = False,
    all_users: AllUsers = False,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Say what a start or a stop would begin and end, and what would stay and for whom, without doing it.

    Example: ravenctl plan --symbol BTCUSDT --with tib
    Example: ravenctl plan --stop --symbol BTCUSDT
    """
    from ravencore import service
    from ravenctl import control, demands, plans
    from ravenctl.cluster import check, resolve

    settings = resolve(given_bootstrap(ctx, bootstrap))
    want = _wanted(
        settings,
        symbol=symbol,
        coin=coin,
        quote=quote,
        venues=(venue, venue_include, venue_exclude),
        outputs=outputs,
        stores=into,
        user=user,
    )
    check(settings)
    standing, _ = control.standing_demands(settings.kafka, service.codec(settings))
    if to_stop:
        found = plans.plan_stop(want, standing, settings, all_users=all_users)
    else:
        found = plans.plan(standing, demands.to_start(want, standing, settings.routing, now_us()), settings)
    if as_json:
        typer.echo(json.dumps(plans.for_scripts(found), indent=2))
    else:
        show(console(), plans.show(found))


@app.command(epilog=EXIT_CODES)
def user(ctx: typer.Context, *, as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """List the demands as people made them: who wants what, from where, into which stores, since when.

    Example: ravenctl user
    """
    from ravencore import service
    from ravenctl import control, plans
    from ravenctl.cluster import reach

    settings = reach(given_bootstrap(ctx, bootstrap))
    standing, unreadable = control.standing_demands(settings.kafka, service.codec(settings))
    ordered = sorted(standing.values(), key=lambda demand: (demand.user, demand.created_time))
    if as_json:
        told = [{**plans.demand_for_scripts(one), "created_time": _time(one.created_time)} for one in ordered]
        typer.echo(json.dumps({"demands": told, "unreadable": list(unreadable)}, indent=2))
    else:
        show(console(), _demands(ordered, unreadable))


def _demands(standing: list[Demand], unreadable: Collection[str]) -> RenderableType:
    if not standing and not unreadable:
        return Text("nobody wants anything yet: ravenctl start --symbol BTCUSDT")
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("USER", "SYMBOL", "VENUES", "WITH", "INTO"):
        table.add_column(name, overflow="fold", no_wrap=name == "SYMBOL")
    table.add_column("SINCE", min_width=len("2026-01-01"))
    table.add_column("ID", no_wrap=True, min_width=16)
    for one in standing:
        table.add_row(
            one.user,
            one.symbol,
            ", ".join(one.venues) or "configured",
            _named(one.outputs),
            _named(one.stores),
            _time(one.created_time),
            one.demand_id,
        )
    words = [shell_word(name) for name in unreadable]
    left = [Text(f"{word}: cannot be read; withdraw it with `ravenctl stop --id {word}`") for word in words]
    return Group(table, *left)


class Format(Enum):
    """How a graph is written."""

    text = "text"
    dot = "dot"
    mermaid = "mermaid"
    json = "json"


@app.command(epilog=EXIT_CODES)
def graph(
    ctx: typer.Context,
    *,
    how: Annotated[Format, typer.Option("--format", help="For eyes, Graphviz, Mermaid or scripts.")] = Format.text,
    configured: Annotated[bool, typer.Option("--configured", help="Only as configured; needs no Kafka.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Draw what is made of what, from the venues to the stores, and which of it runs.

    Example: ravenctl graph
    Example: ravenctl graph --format dot | dot -Tsvg > raven.svg
    """
    from ravenctl import graphs

    settings, things, statuses = _seen(given_bootstrap(ctx, bootstrap), configured=configured)
    found = graphs.graph(settings, things, statuses)
    match how:
        case Format.text:
            show(console(), graphs.as_text(found))
        case Format.dot:
            typer.echo(graphs.as_dot(found))
        case Format.mermaid:
            typer.echo(graphs.as_mermaid(found))
        case Format.json:
            typer.echo(json.dumps(graphs.for_scripts(found), indent=2))


def _seen(
    bootstrap: str | None, *, configured: bool
) -> tuple[Settings, dict[Thing, tuple[str, ...]], list[ServiceStatus]]:
    """The settings, what demands come to, and how services are."""
    from ravencore import service
    from ravenctl import control, plans
    from ravenctl.cluster import reach, resolve
    from ravenctl.statusview import StatusFeed, fresh

    if configured:
        return resolve(bootstrap), {}, []
    settings = reach(bootstrap)
    codec = service.codec(settings)
    standing, _ = control.standing_demands(settings.kafka, codec)
    feed = StatusFeed(settings.kafka, codec)
    try:
        feed.catch_up()
        return settings, plans.running(standing.values(), settings), fresh(feed.latest, now_us())
    finally:
        feed.close()


Names = list[str] | None


def _wanted(
    settings: Settings,
    *,
    symbol: Names,
    coin: str | None,
    quote: str | None,
    venues: tuple[Names, Names, Names],
    outputs: Names,
    stores: Names,
    user: str | None,
) -> Wanted:
    """What the options mean; raises WrongUse. Venues: those named, those beside them, and all but these."""
    from ravenctl import demands
    from ravenctl.control import whoami

    if bool(coin) != bool(quote):
        raise WrongUse("--coin and --quote go together, for example --coin ETH --quote USDC")
    named = [*(symbol or []), *([f"{coin}/{quote}"] if coin else [])]
    chosen = demands.chosen_venues(*venues, settings.routing)
    return demands.wanted(named, chosen, user or whoami(), outputs, stores)


def _time(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
