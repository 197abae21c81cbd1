"""What all commands share at the edge: exit codes, errors as one line, and how options are written."""

import difflib
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.status import Status
from rich.text import Text
from typer._click.exceptions import NoArgsIsHelpError, UsageError  # typer's own copy of click, told nowhere else
from typer.core import TyperCommand, TyperGroup

from ravencore.errors import ConfigError, RavenError, Unavailable
from ravencore.graph import SHORT, STORES
from ravencore.records import RECORDS
from ravencore.topics import TOPICS

RAVEN = "raven."
"""What every topic's name begins with."""
HOME = ".raven"
"""Folder of a local stack, where none is named."""

SERVICES = ("collector", "engine", *(f"sink-{store}" for store in STORES))
"""Raven's services by the names unless RAVEN_SERVICE__NAME says otherwise, in the order of the stream."""

START_ALL = "`ravenctl local up`, or `docker compose up -d`"
"""Where Raven's services are started, whichever way they run here."""

FAILED = 1
USAGE = 2
CONFIG = 3
UNAVAILABLE = 4
INTERRUPTED = 130

EXIT_CODES = (
    "Exit codes: 0 done; 1 it did not come about, the message says why; 2 the command was written wrongly; "
    "3 the configuration is wrong; 4 Kafka or another server does not answer; 130 interrupted."
)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|)")
_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}


class CommandFailed(RavenError):
    """Raised when a command ran as written and what it was asked for did not come about."""


class WrongUse(RavenError):
    """Raised when a command was given what cannot be meant."""


def exit_code(error: RavenError) -> int:
    """The exit code that stands for an error."""
    match error:
        case WrongUse():
            return USAGE
        case ConfigError():
            return CONFIG
        case Unavailable():
            return UNAVAILABLE
        case _:
            return FAILED


def require(library: str, what: str, extra: str) -> None:
    """Raise CommandFailed where what is asked for needs a library that is not installed."""
    if find_spec(library) is None:
        raise CommandFailed(f"{what} needs {library}, which is not installed: pip install 'raven-market-data[{extra}]'")


class RavenGroup(TyperGroup):
    """Turns wrong use, and the errors that Raven raises on purpose, into one line and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what stands before the command."""
        with _in_one_line():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command."""
        try:
            with _in_one_line():
                return super().invoke(ctx)
        except RavenError as error:
            typer.echo(f"ravenctl: {error}", err=True)
            raise typer.Exit(exit_code(error)) from None


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except NoArgsIsHelpError:
        raise
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "ravenctl"
        said = error.format_message().replace("Value error, ", "").replace("\n", " ").rstrip(".")
        typer.echo(f"ravenctl: {said}: see `{command} --help`", err=True)
        raise typer.Exit(USAGE) from None


def shell_word(name: str) -> str:
    """A name as a shell takes it, also one that is no text."""
    raw = name.encode(errors="surrogateescape")
    if all(0x20 <= byte < 0x7F for byte in raw):
        return shlex.quote(name)
    return "$'" + "".join(f"\\x{byte:02x}" for byte in raw) + "'"


class SpreadCommand(TyperCommand):
    """A command whose `--recording` takes all values up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, with `--recording A B` read as `--recording A --recording B`."""
        return super().parse_args(ctx, spread(args, "--recording"))


def spread(args: Sequence[str], option: str) -> list[str]:
    """Arguments in which each further value of an option that was given several at once has its own flag."""
    out: list[str] = []
    taking = False
    for arg in args:
        if arg.startswith("-"):
            taking = arg == option or arg.startswith(f"{option}=")
        elif taking and out[-1] != option:
            out.append(option)
        out.append(arg)
    return out


def seconds(text: str) -> float:
    """Seconds of a duration as people write it: `500ms`, `90s`, `2m`, `1h`, or plain seconds."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise typer.BadParameter(f"{text!r} is no duration: write it like 90s, 2m or 1h")
    return float(match[1]) * _SECONDS[match[2]]


def console(*, stderr: bool = False) -> Console:
    """Standard output, or error: colours and the screen's width on a terminal, plain and never wrapped when piped."""
    if (sys.stderr if stderr else sys.stdout).isatty():
        return Console(highlight=False, stderr=stderr)
    return Console(width=1000, highlight=False, no_color=True, stderr=stderr)


def show(screen: Console, what: RenderableType) -> None:
    """Print tables; where it is piped, without the blanks that fill their columns."""
    if screen.is_terminal:
        screen.print(what)
        return
    with screen.capture() as captured:
        screen.print(what)
    typer.echo("\n".join(text.rstrip() for text in captured.get().splitlines()))


class Telling:
    """Says what a command has done, and while it waits for what: on a terminal in one line that changes."""

    def __init__(self, waiting: Status | None, *, stderr: bool = False) -> None:
        self._waiting, self._stderr = waiting, stderr
        self._told: set[str] = set()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._waiting is None:
            typer.echo(text, err=self._stderr)
        else:
            self._waiting.console.print(text, markup=False, soft_wrap=True)

    def wait(self, reasons: Sequence[str]) -> None:
        """What is waited for, a sentence each; where it is piped, each once."""
        if self._waiting is not None:
            more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
            self._waiting.update(Text(f"{reasons[0]}{more}", overflow="ellipsis", no_wrap=True))
            return
        for reason in reasons:
            if reason not in self._told:
                self._told.add(reason)
                typer.echo(f"  {reason}", err=self._stderr)


@contextmanager
def telling(*, stderr: bool = False) -> Iterator[Telling]:
    """A Telling for standard output, or for standard error where the former is a script's."""
    screen = console(stderr=stderr)
    if not screen.is_terminal:
        yield Telling(None, stderr=stderr)
        return
    with screen.status("looking at what runs") as waiting:
        yield Telling(waiting)


def now_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


def given_bootstrap(ctx: typer.Context, own: str | None) -> str | None:
    """The `--bootstrap` of the command, else the one before its name."""
    if own:
        return own
    wide = ctx.find_root().params.get("bootstrap")
    return str(wide) if wide else None


# Completion: what a shell offers; only light modules are imported, and nobody is asked.


def complete_venue(incomplete: str) -> list[str]:
    """Venues, and single sources of them."""
    from producers.registry import SOURCES

    names = [name for source in SOURCES.values() for name in (source.venue, source.name)]
    if ":" in incomplete:
        names = [f"{one.venue}:{channel.upper()}" for one in SOURCES.values() for channel in one.channels]
    return _beginning(names, incomplete)


def complete_output(incomplete: str) -> list[str]:
    """What can be demanded, by its short names."""
    return _beginning(SHORT, incomplete)


def complete_store(incomplete: str) -> list[str]:
    """Stores."""
    return _beginning(STORES, incomplete)


def complete_service(incomplete: str) -> list[str]:
    """Raven's services by their usual names."""
    return _beginning(SERVICES, incomplete)


def complete_topic(incomplete: str) -> list[str]:
    """Topics, whole or without `raven.` as the beginning is."""
    names = [topic.name for topic in TOPICS]
    whole = incomplete != "" and (RAVEN.startswith(incomplete) or incomplete.startswith(RAVEN))
    return _beginning(names if whole else [name.removeprefix(RAVEN) for name in names], incomplete)


def complete_schema(incomplete: str) -> list[str]:
    """Records."""
    return _beginning((cls.SCHEMA for cls in RECORDS), incomplete)


def complete_setting(incomplete: str) -> list[str]:
    """Settings and their sections."""
    from ravencore.config import Settings, paths

    return _beginning((path for path in paths(Settings) if "*" not in path), incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    """Names that begin as the last of a list does, in any case, each once."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in dict.fromkeys(names) if name.lower().startswith(last.lower())]


def nearest(name: str, known: Iterable[str], elsewhere: str = "") -> str:
    """What to write in place of a wrong name: the nearest that there is, else all of them, or where to find them."""
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else elsewhere or f"there are {', '.join(names)}"


Bootstrap = Annotated[
    str | None,
    typer.Option("--bootstrap", metavar="HOST:PORT", help="Another Kafka cluster than the configured or local one."),
]
User = Annotated[str | None, typer.Option("--user", help="On whose behalf; you, where not given.")]
Symbols = Annotated[
    list[str] | None,
    typer.Option("--symbol", metavar="SYMBOL", help="For example BTCUSDT or BTC/USDT, '*' for all; repeatable."),
]
Coin = Annotated[
    str | None, typer.Option("--coin", metavar="COIN", help="With --quote: the same as --symbol COIN/QUOTE.")
]
Quote = Annotated[str | None, typer.Option("--quote", metavar="QUOTE", help="What --coin is traded for.")]
Outputs = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="OUTPUT,...",
        help="Only these, and what they are made of: trades, klines, bars, tib, vpin, spot_mid ... All, if not given.",
        autocompletion=complete_output,
    ),
]
Stores = Annotated[
    list[str] | None,
    typer.Option(
        "--into",
        metavar="STORE,...",
        help="Only these: influx, timescale, lake, redis. All, if not given.",
        autocompletion=complete_store,
    ),
]
Venues = Annotated[
    list[str] | None,
    typer.Option(
        "--venue",
        metavar="VENUE[:CHANNEL]",
        help="For example BINANCE_SPOT or KRAKEN:TRADES; repeatable. All configured, if not given.",
        autocompletion=complete_venue,
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--venue-include",
        metavar="VENUE[:CHANNEL]",
        help="These beside the configured.",
        autocompletion=complete_venue,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--venue-exclude",
        metavar="VENUE[:CHANNEL]",
        help="All but these; repeatable.",
        autocompletion=complete_venue,
    ),
]
AllUsers = Annotated[bool, typer.Option("--all-users", help="Everybody's demands, not yours alone.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")]
Timeout = Annotated[float, typer.Option("--timeout", parser=seconds, metavar="DURATION", help="How long to wait.")]
