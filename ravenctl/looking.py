"""Commands that look, and the one that ends services: status, tail, topics, schemas, config show, doctor, shutdown."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ravenctl.shell import (
    EXIT_CODES,
    FAILED,
    START_ALL,
    AsJson,
    Bootstrap,
    Timeout,
    User,
    complete_schema,
    complete_service,
    complete_setting,
    complete_topic,
    console,
    given_bootstrap,
    now_us,
    show,
)

if TYPE_CHECKING:
    from ravencore.config import Settings
    from ravenctl.statusview import Statuses, StatusFeed

app = typer.Typer()
config_app = typer.Typer(help="The configuration.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_app, name="config")


@app.command(epilog=EXIT_CODES)
def status(
    ctx: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON array.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, once a second, until Ctrl-C.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Show services and subscriptions: state, rates, lag, counts, restarts left, last gap, newest errors.

    A service that is silent is marked as gone; in a local stack its supervisor says at once what has become of it.

    Example: ravenctl status --watch
    Example: ravenctl status --json
    """
    from ravencore import service
    from ravenctl.cluster import reach
    from ravenctl.statusview import StatusFeed

    settings = reach(given_bootstrap(ctx, bootstrap))
    feed = StatusFeed(settings.kafka, service.codec(settings))
    try:
        feed.catch_up()
        if watch:
            _watch(settings, feed, as_json=as_json or not sys.stdout.isatty())
        elif as_json:
            typer.echo(json.dumps(_for_scripts(settings, feed), indent=2))
        else:
            _show_once(settings, feed)
    finally:
        feed.close()


def _for_scripts(settings: Settings, feed: StatusFeed) -> list[dict[str, object]]:
    from ravenctl import cluster, services

    found = services.seen(feed.latest, cluster.stack_of(settings), now_us())
    return [services.for_scripts(one, now_us()) for one in found]


def _show_once(settings: Settings, feed: StatusFeed) -> None:
    from ravenctl import cluster, services, statusscreen

    found = services.seen(feed.latest, cluster.stack_of(settings), now_us())
    if found:
        screen = console()
        # On a terminal as much as it holds above the prompt.
        height = screen.height - 2 if screen.is_terminal else None
        show(screen, statusscreen.show(found, now_us(), screen.width, height))
    else:
        typer.echo(f"no service has reported yet: start them with {START_ALL}")


def _watch(settings: Settings, feed: StatusFeed, *, as_json: bool) -> None:
    from rich.live import Live

    from ravenctl import cluster, services, statusscreen, statusview
    from ravenctl.control import SILENT_S

    if as_json:
        statusview.watch(feed, lambda _: typer.echo(json.dumps(_for_scripts(settings, feed))))
    screen = console()
    with Live(console=screen, screen=True, auto_refresh=False) as live:

        def draw(latest: Statuses) -> None:
            found = services.seen(latest, cluster.stack_of(settings), now_us())
            away = None
            if feed.away:
                away = f"Kafka at {settings.kafka.bootstrap} does not answer"
            elif feed.silent_s > SILENT_S:
                away = f"Kafka at {settings.kafka.bootstrap} has brought nothing for {feed.silent_s:.0f} s"
            live.update(statusscreen.show(found, now_us(), screen.width, screen.height, away), refresh=True)

        statusview.watch(feed, draw)


@app.command(epilog=EXIT_CODES)
def tail(
    ctx: typer.Context,
    *,
    topic: Annotated[
        str, typer.Argument(help="For example raven.bars.tib, or bars.tib for short.", autocompletion=complete_topic)
    ],
    count: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the newest records.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Show the newest records of a topic, decoded: exact decimals, times in UTC with microseconds.

    Example: ravenctl tail bars.tib -n 3 --json
    """
    from ravencore import service
    from ravenctl import tail as tailing
    from ravenctl.cluster import reach

    named = tailing.full_name(topic)
    settings = reach(given_bootstrap(ctx, bootstrap))
    lines = tailing.tail(settings.kafka, service.codec(settings), named, count, go_on=follow)
    tailing.write(lines, as_json=as_json)


@app.command(epilog=EXIT_CODES)
def topics(ctx: typer.Context, *, as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """Show Raven's topics: partitions, records, how old the newest is, how long they are kept, what they hold.

    Records are counted by offsets: markers of transactions, and what was compacted away, count too.

    Example: ravenctl topics
    Example: ravenctl topics --json
    """
    from ravenctl import topicsview
    from ravenctl.cluster import reach

    found = topicsview.survey(reach(given_bootstrap(ctx, bootstrap)).kafka)
    if as_json:
        typer.echo(json.dumps([topicsview.for_scripts(told, now_us()) for told in found], indent=2))
    else:
        show(console(), topicsview.listed(found, now_us()))


@app.command(epilog=EXIT_CODES)
def schemas(
    *,
    name: Annotated[
        str | None, typer.Argument(metavar="[RECORD]", help="With its fields.", autocompletion=complete_schema)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is on the wire: records with their schema ids, pinned and in the registry where one is configured.

    Example: ravenctl schemas
    Example: ravenctl schemas trade --json
    """
    from ravencore.config import load
    from ravenctl import schemas as known

    url = load().schema_registry.url
    found = known.told(name, url)
    if as_json:
        told = [known.for_scripts(one, with_fields=name is not None) for one in found]
        typer.echo(json.dumps(told[0] if name else told, indent=2))
    elif name:
        show(console(), known.shown(found[0], has_registry=url is not None))
    else:
        show(console(), known.listed(found, has_registry=url is not None))


@config_app.command(name="show", epilog=EXIT_CODES)
def show_config(
    *,
    prefix: Annotated[
        str | None,
        typer.Argument(metavar="[SETTING]", help="Only this setting, or section.", autocompletion=complete_setting),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show every setting as resolved and where its value comes from: a default, a file or an environment variable.

    Passwords are never shown. A configuration that is wrong is told with exit code 3.

    Example: ravenctl config show
    Example: ravenctl config show bars.tib --json
    """
    from pathlib import Path

    from ravencore.config import load
    from ravenctl import cluster, configview

    settings = load()
    configview.check_rooms(settings)
    running = None if cluster.configured(settings) else cluster.running_stack(Path.cwd())
    found = configview.below(configview.resolved(running), prefix) if prefix else configview.resolved(running)
    if as_json:
        told = [{"setting": one.name, "value": one.value, "from": one.origin} for one in found]
        typer.echo(json.dumps(told, indent=2))
    else:
        show(console(), configview.table(found))


@app.command(epilog=EXIT_CODES)
def doctor(ctx: typer.Context, *, as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """Look for what is wrong with this installation, and say what to do; nothing is created or written.

    A line for each check: ok, warning or FAILED. Exit code 1 when something FAILED.

    Example: ravenctl doctor
    Example: ravenctl doctor --json
    """
    from ravenctl import doctor as examining

    found = examining.examine(given_bootstrap(ctx, bootstrap))
    if as_json:
        typer.echo(json.dumps([examining.for_scripts(finding) for finding in found], indent=2))
    else:
        show(console(), examining.listed(found))
    if examining.worst(found):
        raise typer.Exit(FAILED)


@app.command(epilog=EXIT_CODES)
def shutdown(
    ctx: typer.Context,
    *,
    services: Annotated[
        list[str] | None,
        typer.Option(
            "--service",
            metavar="SERVICE",
            help="For example sink-lake; repeatable. All that run, if not given.",
            autocompletion=complete_service,
        ),
    ] = None,
    user: User = None,
    timeout: Timeout = "60s",  # type: ignore[assignment]
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """End services, whoever started them, and wait until they have: collectors, the engine, then sinks.

    What was received is worked off before the next are asked. They stay down, demands stay: `ravenctl local up` or
    `docker compose up` starts them again.

    Example: ravenctl shutdown
    Example: ravenctl shutdown --service sink-lake --timeout 30s
    """
    from ravencore import service
    from ravenctl import shutdown as ending
    from ravenctl.cluster import reach
    from ravenctl.control import whoami

    def say(text: str) -> None:
        typer.echo(text, err=as_json)

    settings = reach(given_bootstrap(ctx, bootstrap))
    done = ending.shut_down(
        settings, service.codec(settings), services or [], user=user or whoami(), timeout_s=timeout, say=say
    )
    if as_json:
        typer.echo(json.dumps(done._asdict(), indent=2))
    else:
        for line in ending.told(done, timeout):
            typer.echo(line)
    if done.left or done.hanging:
        raise typer.Exit(FAILED)
