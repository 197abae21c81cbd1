"""`ravenctl vpin suggest`: a bucket volume, a fiftieth of an average day, from what Kafka or a file holds."""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar, cast, get_args

from confluent_kafka import Consumer, KafkaException, Message

from processors.columns import unsound
from ravencore import topics
from ravencore.codec import Codec
from ravencore.columns import TradeColumns, decode_columns, of_trades
from ravencore.config import KafkaSettings, VpinSettings
from ravencore.decimals import ONE, from_text, to_text
from ravencore.errors import Unavailable, Unreadable
from ravencore.kafka import TIMEOUT_S
from ravencore.records import Bar, Kline, Record, Trade
from ravenctl import reading
from ravenctl.gaps import Waiting
from ravenctl.research.batches import Admitted
from ravenctl.research.tapes import Wanted, open_tape, same_symbol
from ravenctl.shell import CommandFailed, WrongUse

R = TypeVar("R", bound=Record)
Unit = Literal["quote", "base"]
Instrument = tuple[str, str]
"""Venue and symbol."""
SHARE = 50
"""Easley, Lopez de Prado and O'Hara take a fiftieth of an average day."""
DAY_US = 86_400_000_000
MINUTE_US = 60_000_000
CANDLES = "1m"
INTERVALS = ("1m", "1s")
"""Profiles of time bars that are read."""
DIGITS = 6
"""That a suggestion is rounded to."""
DECODED = 4_096
"""Trades that are decoded together."""
TELL_EVERY = 1_000
KEPT_DAYS = next(int(it.settings["retention.ms"]) for it in topics.TOPICS if it.name == topics.TRADES) / topics.DAY_MS
"""How far back trades can reach."""


class Flow:
    """What was traded of an instrument in a stretch of time; base unscaled, quote at scale 36."""

    def __init__(self, what: str) -> None:
        self.what = what
        """What it is taken from, for a person."""
        self.base = self.quote = 0
        self._first_us: int | None = None
        self._last_us = 0

    def add(self, begin_us: int, end_us: int, base: int, quote: int) -> None:
        """Add volume that was traded between two times."""
        self._first_us = begin_us if self._first_us is None else min(self._first_us, begin_us)
        self._last_us = max(self._last_us, end_us)
        self.base += base
        self.quote += quote

    def add_trades(self, trades: TradeColumns) -> None:
        """Add trades, at least one."""
        notional = sum(price * quantity for price, quantity in zip(trades.price, trades.quantity, strict=True))
        self.add(min(trades.event_time), max(trades.event_time), sum(trades.quantity), notional)

    @property
    def days(self) -> float:
        """How long it is."""
        return 0.0 if self._first_us is None else (self._last_us - self._first_us) / DAY_US

    def daily(self, unit: Unit) -> float:
        """The average volume of a day; 0 where all happened in one moment."""
        total = self.quote / ONE**2 if unit == "quote" else self.base / ONE
        return total / self.days if self.days else 0.0


class CandleFlow(Flow):
    """Candles of a minute, each taken once: their number tells how long the market was watched."""

    def __init__(self) -> None:
        super().__init__(f"{topics.KLINES}, candles of a minute")
        self._minutes: set[int] = set()

    def take(self, kline: Kline) -> None:
        """Add a candle."""
        if kline.interval == CANDLES and kline.open_time not in self._minutes:
            self._minutes.add(kline.open_time)
            self.add(kline.open_time, kline.open_time + MINUTE_US, kline.volume, kline.quote_volume * ONE)

    @property
    def days(self) -> float:
        """How long it is, without what is missing."""
        return len(self._minutes) * MINUTE_US / DAY_US


class Kafka:
    """What Kafka holds of a symbol, by venue; `venue` None: of every venue that has it."""

    def __init__(self, settings: KafkaSettings, codec: Codec, symbol: str, venue: str | None) -> None:
        self._settings, self._codec = settings, codec
        self._symbol, self._venue = symbol, venue
        self._candles: dict[Instrument, CandleFlow] = {}
        self._bars: dict[tuple[Instrument, str], Flow] = {}
        self._trades: dict[Instrument, Flow] = {}

    def longest(self) -> dict[Instrument, Flow]:
        """Of each instrument the flow that is longest; raises Unavailable.

        Trades are read only where candles and bars do not reach back as far as trades are kept.
        """
        client = reading.reader(self._settings)
        try:
            there = client.list_topics(timeout=TIMEOUT_S).topics
            with Waiting() as waiting:
                self._read(client, topics.KLINES, there, self._take_candles, waiting)
                self._read(client, topics.BARS["time"], there, self._take_bars, waiting)
                if min((flow.days for flow in self._found().values()), default=0.0) < KEPT_DAYS:
                    self._read(client, topics.TRADES, there, self._take_trades, waiting)
        except KafkaException as error:
            raise Unavailable(f"Kafka does not answer: {error.args[0].str()}") from None
        finally:
            client.close()
        return self._found()

    def _found(self) -> dict[Instrument, Flow]:
        flows: list[tuple[Instrument, Flow]] = [*self._candles.items(), *self._trades.items()]
        flows += [(instrument, flow) for (instrument, _), flow in self._bars.items()]
        flows.sort(key=lambda found: found[1].days)
        return {instrument: flow for instrument, flow in flows if flow.days and flow.base}

    def _read(
        self,
        client: Consumer,
        topic: str,
        there: Collection[str],
        take: Callable[[Instrument, Sequence[bytes]], None],
        waiting: Waiting,
    ) -> None:
        """Hand values of a topic that are of the symbol to `take`, by instrument, some thousands at a time."""
        if topic not in there:
            return
        edges = reading.bounds(client, topic)
        total = sum(high - low for low, high in edges.values())
        held: dict[Instrument, list[bytes]] = {}
        for done, message in enumerate(
            reading.read(client, topic, {number: low for number, (low, _) in edges.items()})
        ):
            if done % TELL_EVERY == 0:
                waiting.say(f"reading {topic}", done, total)
            instrument, value = self._wanted(message), message.value()
            if instrument is None or value is None:
                continue
            values = held.setdefault(instrument, [])
            values.append(value)
            if len(values) == DECODED:
                take(instrument, held.pop(instrument))
        for instrument, values in held.items():
            take(instrument, values)

    def _wanted(self, message: Message) -> Instrument | None:
        key = message.key()
        venue, _, symbol = (key.decode(errors="replace") if isinstance(key, bytes) else key or "").partition(":")
        fits = same_symbol(symbol, self._symbol) and self._venue in (None, venue)
        return (venue, symbol) if fits else None

    def _take_candles(self, instrument: Instrument, values: Sequence[bytes]) -> None:
        flow = self._candles.setdefault(instrument, CandleFlow())
        for kline in self._decoded(Kline, values):
            flow.take(kline)

    def _take_bars(self, instrument: Instrument, values: Sequence[bytes]) -> None:
        for bar in self._decoded(Bar, values):
            if bar.profile in INTERVALS:
                flow = self._bars.setdefault((instrument, bar.profile), Flow(f"{topics.BARS['time']} {bar.profile}"))
                flow.add(bar.open_time, bar.close_time, bar.volume, bar.quote_volume * ONE)

    def _take_trades(self, instrument: Instrument, values: Sequence[bytes]) -> None:
        flow = self._trades.setdefault(instrument, Flow(topics.TRADES))
        columns = decode_columns(self._codec, *instrument, values)
        if columns is None:
            columns = of_trades(list(self._decoded(Trade, values)))
        if columns.price:
            flow.add_trades(columns)

    def _decoded(self, record: type[R], values: Sequence[bytes]) -> Iterator[R]:
        """What can be read."""
        for value in values:
            with suppress(Unreadable):
                yield self._codec.decode_as(record, value)


def unit_named(name: str | None, vpin: VpinSettings) -> Unit:
    """The unit of that name, else the configured one; raises WrongUse."""
    if name is None:
        return vpin.unit
    if name not in get_args(Unit):
        raise WrongUse(f"--unit {name}: write {' or '.join(get_args(Unit))}")
    return cast("Unit", name)


def of_kafka(settings: KafkaSettings, codec: Codec, symbol: str, venue: str | None) -> dict[Instrument, Flow]:
    """What Kafka has, by instrument; raises CommandFailed where that is nothing, Unavailable."""
    found = Kafka(settings, codec, symbol, venue).longest()
    if not found:
        where = f" of {venue}" if venue else ""
        raise CommandFailed(
            f"Kafka holds nothing yet to tell the volume of {symbol}{where} by: collect it with `ravenctl start "
            f"--symbol {symbol} --with klines`, or give a file of trades with --file"
        )
    return found


def of_file(path: Path, wanted: Wanted) -> dict[Instrument, Flow]:
    """What a file has; says what was refused of it. Raises CommandFailed where it is over before it began."""
    flow = Flow(str(path))
    with open_tape(path, wanted, lambda _: None) as tape, Waiting() as waiting:
        admitted = Admitted()
        for batch in tape.batches:
            waiting.say("reading trades", *tape.progress())
            bad = unsound(batch.trades)
            for place, why in bad.items():
                tape.report.refuse(batch.lines[place], why)
            if places := [place for place, counts in enumerate(admitted.of(batch.trades, bad)) if counts]:
                flow.add_trades(batch.picked(places).trades)
        if tape.report.refused:
            sys.stderr.write(f"{path}: {tape.report.refusals()}\n")
        if not flow.days:
            raise CommandFailed(f"{path} tells no volume of a day: all its trades are of one moment")
        return {(tape.venue, tape.symbol): flow}


def bucket(flow: Flow, unit: Unit) -> str:
    """The suggestion, as decimal text of six digits."""
    return to_text(from_text(f"{flow.daily(unit) / SHARE:.{DIGITS - 1}e}"))


def told(found: dict[Instrument, Flow], unit: Unit, *, unit_is_set: bool) -> Iterator[str]:
    """Suggestions in words, and what to write into the configuration's file."""
    for (venue, symbol), flow in found.items():
        yield (
            f"{venue} {symbol}: V = {bucket(flow, unit)}, a fiftieth of {_figure(flow.daily(unit))} ({unit}) a day, "
            f"from {flow.days:.2f} days of {flow.what}"
        )
    yield ""
    yield "To use it, write into the configuration's file:"
    yield ""
    if not unit_is_set:
        yield from ("[bars.vpin]", f'unit = "{unit}"', "")
    yield "[bars.vpin.bucket_volumes]"
    yield from (f'"{venue}:{symbol}" = "{bucket(flow, unit)}"' for (venue, symbol), flow in found.items())
    yield ""
    yield "# Where the engine has made buckets of another V already, these need a profile name of their own:"
    yield "# [bars.vpin.profiles]"
    yield from (f'# "{venue}:{symbol}" = "v{bucket(flow, unit)}"' for (venue, symbol), flow in found.items())


def _figure(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.6g}"


def warn(found: dict[Instrument, Flow]) -> None:
    """Say on standard error where a day is extrapolated."""
    for (venue, symbol), flow in found.items():
        if round(flow.days, 2) < 1:
            hours = flow.days * 24
            sys.stderr.write(
                f"{venue} {symbol}: {hours:.2f} hours are less than a day, which is extrapolated from them\n"
            )
