"""`ravenctl local up | down | status | logs`: the local stack from the command line."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from ravencore.hiding import without_password
from ravenctl.local.errors import StackError
from ravenctl.local.logs import last_lines, new_text
from ravenctl.local.progress import ConsoleReporter
from ravenctl.local.services import SERVICES
from ravenctl.local.stack import Stack
from ravenctl.local.state import MemberState, StackState

FAILURE = 1
NOT_RUNNING = 3

app = typer.Typer(
    help="Kafka, QuestDB, PostgreSQL, Redis and Raven's services on this machine, without Docker.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Home = Annotated[
    Path, typer.Option("--home", envvar="RAVEN_HOME", help="Folder that holds all data, settings and logs.")
]
HOME = Path(".raven")


@app.command()
def up(
    home: Home = HOME,
    servers_only: Annotated[bool, typer.Option("--servers-only", help="Start none of Raven's own services.")] = False,
) -> None:
    """Start the stack, or what is missing of it, and return when all of it runs.

    A server that RAVEN_KAFKA__BOOTSTRAP, RAVEN_INFLUX__URL or RAVEN_MART__DSN names is used, not started.

    Example: ravenctl local up --home /tmp/raven --servers-only
    """
    console = Console()
    services = () if servers_only else SERVICES
    stack = Stack(home, services, external_servers(os.environ))
    with expected_failures():
        before = stack.status()
        if before:
            console.print(f"already running in {stack.home} (supervisor {before.supervisor.pid})", soft_wrap=True)
        show_status(console, stack.up(ConsoleReporter(console)))


@app.command()
def down(home: Home = HOME) -> None:
    """Stop everything of the home, gently, also what a killed supervisor left; the data stays.

    Example: ravenctl local down
    """
    console = Console()
    with expected_failures():
        stopped = Stack(home).down()
    console.print("stopped" if stopped else f"nothing was running in {home}", soft_wrap=True)


@app.command()
def status(
    home: Home = HOME,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object, passwords included.")] = False,
) -> None:
    """Show what runs and where; exit code 1 when a member is not running, 3 when nothing runs.

    The passwords of servers that run here are told with --json only.

    Example: ravenctl local status --json
    """
    stack = Stack(home)
    with expected_failures():
        state = stack.status()
        if state is None:
            _say_not_running(stack)
    if as_json:
        sys.stdout.write(msgspec.json.encode(state).decode() + "\n")
    else:
        show_status(Console(), state)
    if any(member.state != "running" for member in state.members.values()):
        raise typer.Exit(FAILURE)


@app.command()
def logs(
    name: Annotated[str, typer.Argument(help="A member as `status` lists it, or `supervisor`.")],
    home: Home = HOME,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", min=0, help="How many of the last lines to show first.")] = 50,
) -> None:
    """Show the last lines a member wrote.

    Example: ravenctl local logs kafka -n 20 -f
    """
    path = Stack(home).log_path(name)
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.log"))
        _fail(f"no log of {name!r} in {home}; there are: {', '.join(known) or 'none'}", NOT_RUNNING)
    position = path.stat().st_size
    for line in last_lines(path, lines):
        sys.stdout.write(f"{line}\n")
    with suppress(KeyboardInterrupt):
        while follow:
            for text, end in new_text(path, position):
                sys.stdout.write(text)
                sys.stdout.flush()
                position = end
            time.sleep(0.2)


def external_servers(environment: Mapping[str, str]) -> dict[str, str]:
    """The servers that the environment says run elsewhere, by the names of those they replace."""
    named = {
        "kafka": "RAVEN_KAFKA__BOOTSTRAP",
        "questdb": "RAVEN_INFLUX__URL",
        "postgres": "RAVEN_MART__DSN",
        "redis": "RAVEN_REDIS__URL",
        "lake": "RAVEN_LAKE__URI",
    }
    return {server: environment[name] for server, name in named.items() if environment.get(name)}


def show_status(console: Console, state: StackState) -> None:
    """Prints one row per member, and where the servers are."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("member", "state", "process", "for", "restarts", "left", "last exit"):
        table.add_column(title, no_wrap=True)
    for name, member in state.members.items():
        table.add_row(name, member.state, *_row(member))
    console.print(table)
    for name, address in msgspec.structs.asdict(state.endpoints).items():
        console.print(f"{name} {without_password(address)}", highlight=False, soft_wrap=True)
    for name, member in state.members.items():
        if member.state == "failed" and member.last_error:
            console.print(f"{name} failed; its last lines ({member.log}):", soft_wrap=True)
            console.print(*(f"  {line}" for line in member.last_error), sep="\n", markup=False, soft_wrap=True)


def _row(member: MemberState) -> Iterator[str]:
    yield str(member.pid or "")
    yield str(timedelta(seconds=max(0, int(time.time() - member.since))))
    yield str(member.restarts)
    yield "" if member.restarts_left is None else str(member.restarts_left)
    yield member.last_exit or ""


def _say_not_running(stack: Stack) -> NoReturn:
    orphans = stack.orphans()
    if orphans:
        _fail(f"the supervisor was killed; still alive: {', '.join(orphans)}: use `ravenctl local down`", NOT_RUNNING)
    _fail(f"nothing runs in {stack.home}: use `ravenctl local up`", NOT_RUNNING)


@contextmanager
def expected_failures() -> Iterator[None]:
    """Turns a StackError into one line and exit code 1."""
    try:
        yield
    except StackError as error:
        _fail(str(error), FAILURE)


def _fail(text: str, code: int) -> NoReturn:
    typer.echo(text, err=True)
    raise typer.Exit(code)
