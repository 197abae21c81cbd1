"""ravenctl: Raven's command line. Each command reads its options here and is carried out in a module of its own."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ravencore import __version__
from ravenctl.demanding import app as demanding_app
from ravenctl.local.commands import app as local_app
from ravenctl.looking import app as looking_app
from ravenctl.shell import (
    EXIT_CODES,
    FAILED,
    HOME,
    INTERRUPTED,
    Bootstrap,
    Outputs,
    RavenGroup,
    SpreadCommand,
    Symbols,
    Venues,
    WrongUse,
    complete_service,
    complete_store,
    complete_topic,
    complete_venue,
    console,
    given_bootstrap,
    now_us,
    seconds,
    show,
)

app = typer.Typer(
    name="ravenctl",
    cls=RavenGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
)
app.add_typer(demanding_app)
app.add_typer(local_app, name="local")
app.add_typer(looking_app)
vpin_app = typer.Typer(help="VPIN's settings.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(vpin_app, name="vpin")
dlq_app = typer.Typer(help="What could not be used, and bringing it back.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(dlq_app, name="dlq")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"raven {__version__}")
        raise typer.Exit


@app.callback()
def raven(
    bootstrap: Bootstrap = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Raven: crypto market data into Kafka, bars and VPIN out of it, kept in stores you can query.

    New here? `ravenctl demo` shows all of it at work on this machine. `ravenctl local up` starts it to stay.
    """


@app.command()
def version() -> None:
    """Show the version.

    Example: ravenctl version
    """
    typer.echo(f"raven {__version__}")


@app.command(epilog=EXIT_CODES)
def setup(
    ctx: typer.Context,
    stores: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STORE]...", help="Stores to set up; all where none is named.", autocompletion=complete_store
        ),
    ] = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Create topics, put the schemas into a registry where one is configured, set up the stores. Safe to run twice.

    Each part gets a line: what it is, or what it lacks and what to do; one that fails holds up no other. All but redis,
    a cache, are needed.

    Example: ravenctl setup --bootstrap kafka:9092
    Example: ravenctl setup timescale redis
    """
    from ravenctl import prepare
    from ravenctl.cluster import resolve

    prepare.prepare(resolve(given_bootstrap(ctx, bootstrap)), stores or [], typer.echo)


@app.command(epilog=EXIT_CODES)
def gaps(
    ctx: typer.Context,
    *,
    venue: Annotated[
        list[str] | None,
        typer.Option("--venue", metavar="VENUE", help="For example KRAKEN; repeatable.", autocompletion=complete_venue),
    ] = None,
    symbol: Annotated[
        list[str] | None, typer.Option("--symbol", metavar="SYMBOL", help="BTCUSDT or BTC/USDT; repeatable.")
    ] = None,
    channel: Annotated[
        list[str] | None, typer.Option("--channel", metavar="CHANNEL", help="For example trades; repeatable.")
    ] = None,
    cause: Annotated[
        list[str] | None,
        typer.Option("--cause", metavar="CAUSE", help="List only these, for example SILENCE; repeatable."),
    ] = None,
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="24h, 7d or 2026-11-20T10:00 (UTC).")] = "24h",
    everything: Annotated[
        bool, typer.Option("--all", help="Every Gap with its detail, and every hour, one by one.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object: gaps, hours, summary.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Then what is written to the ledger, until Ctrl-C.")
    ] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Show the continuity ledger: what is missing, why, what became of it, and how complete each hour is.

    Example: ravenctl gaps --since 7d --venue BINANCE_SPOT --symbol BTC/USDT
    Example: ravenctl gaps --channel trades --cause DISCONNECT --all
    """
    from ravencore import service
    from ravenctl import gaps as ledger
    from ravenctl import gapsview
    from ravenctl.cluster import reach

    settings = reach(given_bootstrap(ctx, bootstrap))
    at_us, codec = now_us(), service.codec(settings)
    choice = ledger.choose(
        venues=venue,
        symbols=symbol,
        channels=channel,
        causes=cause,
        since_us=ledger.since(since, at_us),
        routing=settings.routing,
    )
    with ledger.Waiting() as waiting:
        found = ledger.report(settings, codec, choice, at_us, waiting.say)
    if as_json:
        typer.echo(json.dumps(gapsview.for_scripts(found), indent=2))
    else:
        show(console(), gapsview.show(found, console().width, everything=everything))
    if follow:
        gapsview.write(ledger.entries(settings.kafka, codec, choice), as_json=as_json)


@app.command(cls=SpreadCommand, epilog=EXIT_CODES)
def demo(
    *,
    recording: Annotated[
        list[str] | None,
        typer.Option(
            "--recording", metavar="FILE...", help="Play these recordings, of any venues, side by side; or VENUE=FILE."
        ),
    ] = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Play a seeded synthetic market; the default.")
    ] = False,
    live: Annotated[bool, typer.Option("--live", help="Connect to the real exchanges.")] = False,
    venues: Annotated[
        str, typer.Option("--venues", metavar="all|V,V", help="For --synthetic and --live; BINANCE_SPOT if not given.")
    ] = "",
    speed: Annotated[str, typer.Option("--speed", metavar="1|N|max", help="Pace of playback.")] = "1",
    duration: Annotated[
        float | None,
        typer.Option("--duration", parser=seconds, metavar="DURATION", help="Of market time, like 90s or 2m."),
    ] = None,
    symbol: Annotated[
        list[str] | None, typer.Option("--symbol", metavar="SYMBOL", help="For --synthetic and --live; repeatable.")
    ] = None,
    fault: Annotated[
        str,
        typer.Option(
            "--fault",
            metavar="SPEC",
            help="Inject faults: gap=0.001,duplicate=5,reorder=3,garbage=2,cut=2; at speeds but max also stall=1,"
            "mute=1,close=1,limit=1; or chaos: every kind on every feed.",
        ),
    ] = "",
    seed: Annotated[int, typer.Option("--seed", help="Of faults and of the synthetic market.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave all running, for tail and queries.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")] = None,
    home: Annotated[
        Path, typer.Option("--home", envvar="RAVEN_HOME", help="Folder of local data; the demo's own is in it.")
    ] = Path(HOME),
) -> None:
    """Show all of Raven at work on this machine: servers, exchanges, services; then a summary of what was promised.

    Without options: two minutes of a synthetic market. Exit code 0 only when every promise held. Ctrl-C ends it at any
    time and leaves nothing running.

    Example: ravenctl demo --synthetic --venues all
    Example: ravenctl demo --recording BTC.frames.zst ETH.frames.zst --speed max --fault gap=3,cut=1 --seed 7
    """
    from ravenctl import demo as demos
    from ravenctl import demo_plan

    plan = demo_plan.make_plan(
        recording or [],
        synthetic=synthetic,
        live=live,
        venues=venues,
        speed=speed,
        duration_s=duration,
        home=home,
        symbols=tuple(symbol or ()),
        faults=fault,
        seed=seed,
        keep=keep,
        json_file=json_file,
    )
    if not demos.run(plan, console()):
        raise typer.Exit(FAILED)


@app.command(epilog=EXIT_CODES)
def record(
    *,
    symbol: Symbols = None,
    venue: Venues = None,
    outputs: Outputs = None,
    duration: Annotated[
        float | None,
        typer.Option("--duration", parser=seconds, metavar="DURATION", help="Like 90s or 10m; else until Ctrl-C."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE_OR_FOLDER", help="A folder, or of a single source NAME.frames.zst."),
    ] = Path(),
) -> None:
    """Record what venues send, byte for byte, into files that `ravenctl demo --recording` plays back; needs no Kafka.

    One file per source, named by source, symbols and time; REST answers beside it. Venues and symbols are named as in
    `ravenctl start`. A connection that breaks is made anew and the file goes on; a file is never overwritten, and one
    whose recorder was killed can be played to its last second. To record a simulator, name its endpoints, for example
    in RAVEN_VENUES__KRAKEN__WS_URL and RAVEN_VENUES__KRAKEN__REST_URL.

    Example: ravenctl record --venue KRAKEN --symbol BTC/USD --symbol ETH/USD --duration 10m
    Example: ravenctl record --venue DERIBIT --venue BINANCE_OPTIONS --out recordings/
    """
    from ravencore.config import load
    from ravenctl import record as recording
    from ravenctl.control import whoami
    from ravenctl.demands import wanted

    want = wanted(symbol, venue, whoami(), outputs)
    settings = load()
    plan = recording.make_plan(want, settings, out, duration, now_us())
    if recording.run(plan, settings, console()):
        raise typer.Exit(INTERRUPTED)


@app.command(epilog=EXIT_CODES)
def bars(
    trades: Annotated[
        Path,
        typer.Argument(help="CSV, Parquet or a recording; gzip, zstd, xz, bzip2 and zip are unpacked."),
    ],
    *,
    kind: Annotated[str, typer.Option("--kind", help="For example time, tib, dollar or vpin; a wrong one lists all.")],
    profile: Annotated[
        str | None,
        typer.Option("--profile", metavar="NAME", help="A configured one, or a new name for --set; time: an interval."),
    ] = None,
    rule: Annotated[str | None, typer.Option("--rule", metavar="guarded|raven", help="Short for --set rule=.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A parameter of the profile; repeatable. A wrong key lists all."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help=".parquet, .csv or .jsonl; else, or with -, JSON lines to stdout."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw them as well; needs the extra `research`.")
    ] = None,
    venue: Annotated[
        str | None,
        typer.Option("--venue", metavar="VENUE", help="What the bars name; of a recording also whose it is."),
    ] = None,
    symbol: Annotated[
        str | None, typer.Option("--symbol", metavar="SYMBOL", help="Of several the one to read; else what bars name.")
    ] = None,
    time_column: Annotated[
        str | None, typer.Option("--time", metavar="COLUMN", help="Column of times: its name, or its number from 1.")
    ] = None,
    time_unit: Annotated[
        str | None, typer.Option("--time-unit", metavar="s|ms|us|ns", help="What times count; else told by their size.")
    ] = None,
    price: Annotated[str | None, typer.Option("--price", metavar="COLUMN", help="Column of prices.")] = None,
    quantity: Annotated[str | None, typer.Option("--quantity", metavar="COLUMN", help="Column of quantities.")] = None,
    side: Annotated[
        str | None, typer.Option("--side", metavar="COLUMN", help="Column of the aggressor's side: buy or sell.")
    ] = None,
    is_buyer_maker: Annotated[
        str | None, typer.Option("--is-buyer-maker", metavar="COLUMN", help="Column that says so, in place of a side.")
    ] = None,
    trade_id: Annotated[str | None, typer.Option("--id", metavar="COLUMN", help="Column of trade ids.")] = None,
) -> None:
    """Make bars or VPIN buckets of a file of trades, as the engine makes them of Kafka's; needs no Kafka.

    Columns are found by their names, or in Binance's dumps without names by their places; what was taken for what is
    said on standard error, and at the end what was read: duplicates, holes in the ids, and rows that were refused.

    Example: ravenctl bars BTCUSDT-trades-2025-01-01.zip --kind tib --profile tib_small --out bars.parquet
    Example: ravenctl bars trades.csv.gz --kind tib --rule raven --set initial_size=200 --out bars.csv --plot bars.png
    Example: ravenctl bars BTC.frames.zst --kind vpin --set bucket_volume=250000 --out vpin.jsonl
    """
    from ravencore.config import load
    from ravenctl.research import bars as making
    from ravenctl.research.spellings import Named
    from ravenctl.research.tapes import wanted

    columns = Named(
        time=time_column, price=price, quantity=quantity, side=side, is_buyer_maker=is_buyer_maker, id=trade_id
    )
    plan = making.make_plan(
        trades,
        wanted(venue, symbol, columns, time_unit),
        kind=kind,
        profile=profile,
        rule=rule,
        changes=changes or [],
        out=out,
        plot=plot,
    )
    making.run(plan, load().bars)


@vpin_app.command(epilog=EXIT_CODES)
def suggest(
    ctx: typer.Context,
    *,
    symbol: Annotated[
        str | None, typer.Option("--symbol", metavar="SYMBOL", help="For example BTCUSDT or BTC/USDT.")
    ] = None,
    venue: Annotated[
        str | None, typer.Option("--venue", metavar="VENUE", help="Of this venue; else of each that has it.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option("--unit", metavar="quote|base", help="What V counts; as configured, if not given.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="TRADES", help="From trades as `ravenctl bars` reads them.")
    ] = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Suggest VPIN's bucket volume of a symbol: a fiftieth of its average daily volume, and the setting to write.

    It is taken from the longest of what Kafka has of the symbol: candles, time bars, trades; or from a file.

    Example: ravenctl vpin suggest --symbol BTCUSDT --venue BINANCE_SPOT
    Example: ravenctl vpin suggest --file BTCUSDT-trades-2025-01-01.zip --symbol BTCUSDT --venue BINANCE_SPOT
    """
    from ravencore import service
    from ravencore.config import load
    from ravenctl.cluster import reach
    from ravenctl.research import suggest as suggesting
    from ravenctl.research.tapes import wanted

    settings = load() if file else reach(given_bootstrap(ctx, bootstrap))
    chosen = suggesting.unit_named(unit, settings.bars.vpin)
    if file:
        found = suggesting.of_file(file, wanted(venue, symbol))
    elif symbol:
        found = suggesting.of_kafka(settings.kafka, service.codec(settings), symbol, venue and venue.upper())
    else:
        raise WrongUse("name a --symbol, or a --file of trades")
    suggesting.warn(found)
    for line in suggesting.told(found, chosen, unit_is_set=chosen == settings.bars.vpin.unit):
        typer.echo(line)


Services = Annotated[
    list[str] | None,
    typer.Option(
        "--service",
        metavar="SERVICE",
        help="For example sink-timescale; repeatable.",
        autocompletion=complete_service,
    ),
]
Reasons = Annotated[
    list[str] | None, typer.Option("--reason", metavar="REASON", help="For example unknown_instrument; repeatable.")
]
Origins = Annotated[
    list[str] | None,
    typer.Option(
        "--topic",
        metavar="TOPIC",
        help="Where they were read, for example raven.trades.",
        autocompletion=complete_topic,
    ),
]
Since = Annotated[str, typer.Option("--since", metavar="TIME", help="24h, 7d or 2026-11-20T10:00 (UTC).")]


@dlq_app.command(name="list", epilog=EXIT_CODES)
def list_letters(
    ctx: typer.Context,
    *,
    service_: Services = None,
    reason: Reasons = None,
    topic: Origins = None,
    since: Since = "30d",
    everything: Annotated[bool, typer.Option("--all", help="Each of them, not the newest alone.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """List dead letters that have not come back: how many of what, and the newest one by one.

    Example: ravenctl dlq list --service sink-timescale --since 24h
    """
    from ravencore import service
    from ravenctl import dlq
    from ravenctl.cluster import reach

    settings = reach(given_bootstrap(ctx, bootstrap))
    choice = dlq.choose(names=(), services=service_, reasons=reason, topics=topic, since=since, now_us=now_us())
    found = dlq.find(settings.kafka, service.codec(settings), choice)
    if as_json:
        for one in found:
            typer.echo(json.dumps(dlq.for_scripts(one)))
    else:
        show(console(), dlq.listed(found, everything=everything))


@dlq_app.command(name="show", epilog=EXIT_CODES)
def show_letter(
    ctx: typer.Context,
    letter: Annotated[str, typer.Argument(metavar="LETTER", help="As `dlq list` names it, for example 3-120.")],
    *,
    bootstrap: Bootstrap = None,
) -> None:
    """Show a dead letter with its record, as JSON.

    Example: ravenctl dlq show 3-120
    """
    from ravencore import service
    from ravenctl import dlq
    from ravenctl.cluster import reach

    settings = reach(given_bootstrap(ctx, bootstrap))
    codec = service.codec(settings)
    [found] = dlq.find(settings.kafka, codec, dlq.Choice(names=frozenset((letter,))))
    typer.echo(dlq.shown(codec, found))


@dlq_app.command(epilog=EXIT_CODES)
def replay(
    ctx: typer.Context,
    letter: Annotated[
        list[str] | None, typer.Argument(metavar="[LETTER]...", help="Which; else all that the options name.")
    ] = None,
    *,
    service_: Services = None,
    reason: Reasons = None,
    topic: Origins = None,
    since: Since = "30d",
    bootstrap: Bootstrap = None,
) -> None:
    """Bring dead letters back after a fix: those of a sink into its store, those of the engine into their topic.

    A second replay changes nothing. What is refused again stays a dead letter, and is told.

    Example: ravenctl dlq replay --service sink-timescale --reason unknown_instrument
    Example: ravenctl dlq replay 3-120 3-121
    """
    from ravencore import service
    from ravenctl import dlq
    from ravenctl.cluster import reach

    if not (letter or service_ or reason or topic):
        raise WrongUse("name letters, or a --service, --reason or --topic: `ravenctl dlq list` shows what there is")
    settings = reach(given_bootstrap(ctx, bootstrap))
    codec = service.codec(settings)
    choice = dlq.choose(
        names=letter or (), services=service_, reasons=reason, topics=topic, since=since, now_us=now_us()
    )
    found = dlq.find(settings.kafka, codec, choice)
    done = dlq.replay(settings, codec, found)
    for one, why in done.left:
        typer.echo(f"{one.name} stays: {why}", err=True)
    typer.echo(f"{len(done.back):,} came back, {len(done.left):,} stay")
    if done.left:
        raise typer.Exit(FAILED)


def main() -> None:
    """The program `ravenctl`."""
    app()
