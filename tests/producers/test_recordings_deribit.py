"""Deribit's recordings, fixtures and documented examples, each read a second way and compared value by value."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from producers.contract import Answer, BadFrame, Event, Feed, Receipt, Reply, Stream
from producers.protocols.deribit import Deribit, currency_of, spelled
from producers.venues.deribit_index import DeribitIndex
from producers.venues.deribit_options import DeribitOptions
from producers.venues.deribit_trades import DeribitTrades
from ravencore.records import IndexPrice, Instrument, OptionTicker, Trade, VolatilityIndex
from tests.producers.recorded import CONNECTION_US, NOW_US, Line, bodies, digest, exactly, lines, refused, units

OPTIONS, TRADES, INDEX = DeribitOptions(), DeribitTrades(), DeribitIndex()
NOT_LISTED = "not among the channels that Deribit subscribed to"
DOCUMENTED = Receipt(NOW_US, CONNECTION_US, 1)


def as_ticker(data: Any, receipt: Receipt) -> OptionTicker:
    currency, expiry, strike, side = data["instrument_name"].split("-")
    underlying, _, priced_in = currency.partition("_")
    bid, ask = decimal_or_none(data["best_bid_price"]), decimal_or_none(data["best_ask_price"])
    return OptionTicker(
        venue="DERIBIT",
        symbol=data["instrument_name"].upper(),
        event_time=int(data["timestamp"]) * 1000,
        received_time=receipt.received_us,
        underlying=underlying,
        expiry=int(datetime.strptime(expiry, "%d%b%y").replace(hour=8, tzinfo=UTC).timestamp()) * 10**6,
        strike=units(strike.replace("d", ".")),
        option_side={"C": "CALL", "P": "PUT"}[side],  # type: ignore[arg-type]
        price_currency=priced_in or underlying,
        bid_price=bid,
        bid_quantity=None if bid is None else units(data["best_bid_amount"]),
        ask_price=ask,
        ask_quantity=None if ask is None else units(data["best_ask_amount"]),
        mark_price=units(data["mark_price"]),
        last_price=decimal_or_none(data["last_price"]),
        underlying_price=units(data["underlying_price"]),
        mark_iv=fraction(data["mark_iv"]),
        bid_iv=None if bid is None else fraction(data["bid_iv"]),
        ask_iv=None if ask is None else fraction(data["ask_iv"]),
        **{greek: float(value) for greek, value in data["greeks"].items()},
        open_interest=units(data["open_interest"]),
        volume=None if data["stats"]["volume"] is None else units(data["stats"]["volume"]),
        connection_time=CONNECTION_US,
        connection_sequence=receipt.sequence,
    )


def decimal_or_none(number: Decimal | None) -> int | None:
    return units(number) if number else None


def fraction(percent: Decimal | None) -> float | None:
    return float(percent.scaleb(-2)) if percent else None


def as_trade(data: Any, receipt: Receipt) -> Trade:
    return Trade(
        venue="DERIBIT",
        symbol=data["instrument_name"],
        event_time=int(data["timestamp"]) * 1000,
        received_time=receipt.received_us,
        trade_id=data["trade_id"],
        sequence=int(data["trade_seq"]),
        price=units(data["price"]),
        quantity=units(data["amount"]),
        side={"buy": "BUY", "sell": "SELL"}[data["direction"]],  # type: ignore[arg-type]
        connection_time=CONNECTION_US,
        connection_sequence=receipt.sequence,
    )


def channel_of(line: Line) -> str:
    return str(line.frame["params"]["channel"]) if "params" in line.frame else "reply"


@pytest.mark.parametrize(
    ("file", "tickers", "books", "fingerprint"),
    [("cf_options_20210405", 273, 187, "85697c808e0e93f4"), ("cf_options_20210722", 89, 46, "b4d6a0934190aa2d")],
)
def test_a_recording_of_option_tickers(recordings: Path, file: str, tickers: int, books: int, fingerprint: str) -> None:
    records: list[Any] = []
    seen: Counter[str] = Counter()
    for line in lines(recordings / "deribit" / f"{file}.frames.zst"):
        channel = channel_of(line)
        seen[channel.partition(".")[0]] += 1
        if channel.startswith("book."):
            assert refused(OPTIONS, line) == f"channel {channel!r} is none that this source subscribes to"
        elif channel.startswith("ticker."):
            events = OPTIONS.parse(line.raw, line.receipt)
            assert list(events) == [as_ticker(line.frame["params"]["data"], line.receipt)]
            records += events
    assert seen == {"ticker": tickers, "book": books, "reply": 1}
    assert digest(records) == fingerprint


def test_a_recorded_ticker_in_full(recordings: Path) -> None:
    _, line, *_ = lines(recordings / "deribit" / "cf_options_20210405.frames.zst")
    assert OPTIONS.parse(line.raw, line.receipt) == (
        OptionTicker(
            venue="DERIBIT",
            symbol="ETH-9APR21-1950-C",
            event_time=1617644856302000,
            received_time=1617644856902155,
            underlying="ETH",
            expiry=1617955200000000,
            strike=1950 * 10**18,
            option_side="CALL",
            price_currency="ETH",
            bid_price=79_500_000_000_000_000,
            bid_quantity=4 * 10**18,
            ask_price=94_500_000_000_000_000,
            ask_quantity=5 * 10**18,
            mark_price=84_155_000_000_000_000,
            last_price=60_000_000_000_000_000,
            underlying_price=2_115_890_000_000_000_000_000,
            mark_iv=0.7874,
            bid_iv=0.5106,
            ask_iv=1.1797,
            delta=0.8609,
            gamma=0.00134,
            theta=-5.09811,
            vega=0.46511,
            rho=0.16173,
            open_interest=3963 * 10**18,
            volume=None,
            connection_time=CONNECTION_US,
            connection_sequence=2,
        ),
    )


@pytest.mark.parametrize("file", ["cf_options_20210405", "cf_options_20210722"])
def test_a_recorded_reply_lists_what_was_accepted(recordings: Path, file: str) -> None:
    line = next(lines(recordings / "deribit" / f"{file}.frames.zst"))
    accepted = line.frame["result"]
    assert len(accepted) == 30
    instruments = [name.split(".")[1] for name in accepted if name.startswith("ticker.")]
    (tickers,) = OPTIONS.parse(line.raw, line.receipt)
    assert tickers == Reply(0, None, tuple(Feed("option_tickers", name) for name in instruments), NOT_LISTED)
    traded = [name.split(".")[1] for name in accepted if name.startswith("trades.")]
    (trades,) = TRADES.parse(line.raw, line.receipt)
    assert trades == Reply(0, None, tuple(Feed("trades", name[:3]) for name in traded), NOT_LISTED)
    assert INDEX.parse(line.raw, line.receipt) == (Reply(0, None, (), NOT_LISTED),)


def test_the_other_sources_refuse_what_is_not_theirs(recordings: Path) -> None:
    for line in lines(recordings / "deribit" / "cf_options_20210722.frames.zst"):
        if channel_of(line) != "reply":
            why = f"channel {channel_of(line)!r} is none that this source subscribes to"
            assert refused(TRADES, line) == refused(INDEX, line) == why


def test_the_recorded_instruments(recordings: Path) -> None:
    found: list[Instrument] = []
    for url, body in bodies(recordings / "deribit" / "cf_options_20210722.rest.jsonl.zst"):
        instruments = OPTIONS.instruments(body, 7)
        assert list(instruments) == [as_instrument(info) for info in exactly(body)["result"]]
        currency = url.split("currency=")[1].split("&")[0]
        options = [instrument.symbol for instrument in instruments if instrument.kind == "OPTION"]
        assert OPTIONS.market_feeds(instruments, [currency]) == [Feed("option_tickers", name) for name in options]
        assert OPTIONS.market_feeds(instruments, ["XRP"]) == []
        found += instruments
    assert Counter(instrument.kind for instrument in found) == {"OPTION": 980, "FUTURE": 18, "PERPETUAL": 19}
    assert digest(found) == "fe4bd86396831a8b"


def as_instrument(info: Any) -> Instrument:
    option, perpetual = info["kind"] == "option", info["settlement_period"] == "perpetual"
    return Instrument(
        venue="DERIBIT",
        symbol=info["instrument_name"],
        received_time=7,
        base=info["base_currency"],
        quote=info["quote_currency"],
        kind="OPTION" if option else "PERPETUAL" if perpetual else "FUTURE",
        status="active" if info["is_active"] else "inactive",
        tick_size=units(info["tick_size"]),
        lot_size=units(info["min_trade_amount"]),
        expiry=None if perpetual else int(info["expiration_timestamp"]) * 1000,
        strike=units(info["strike"]) if option else None,
        option_side=info["option_type"].upper() if option else None,
    )


def test_an_options_name_says_what_the_listing_says(recordings: Path) -> None:
    for _, body in bodies(recordings / "deribit" / "cf_options_20210722.rest.jsonl.zst"):
        for option in OPTIONS.instruments(body, 7):
            if option.kind == "OPTION":
                ticker = parsed(OPTIONS, ticker_of(option.symbol))
                assert isinstance(ticker, OptionTicker)
                assert (ticker.underlying, ticker.expiry, ticker.strike, ticker.option_side, ticker.price_currency) == (
                    option.base,
                    option.expiry,
                    option.strike,
                    option.option_side,
                    option.quote,
                )


def ticker_of(name: str) -> dict[str, Any]:
    sides = {"best_bid_price": 0, "best_bid_amount": 0, "best_ask_price": 0, "best_ask_amount": 0}
    volatilities = {"bid_iv": 0, "ask_iv": 0, "mark_iv": 65.5}
    prices = {"mark_price": 0.1, "last_price": None, "underlying_price": 30000, "open_interest": 0}
    greeks = {"delta": 0, "gamma": 0, "theta": 0, "vega": 0, "rho": 0}
    data = {"instrument_name": name, "timestamp": 1626993723632, **sides, **volatilities, **prices}
    return notification(f"ticker.{name}.100ms", data | {"greeks": greeks, "stats": {"volume": None}})


def notification(channel: str, data: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "subscription", "params": {"channel": channel, "data": data}}


def parsed(source: Stream, message: Any) -> Event:
    (event,) = source.parse(json.dumps(message).encode(), DOCUMENTED)
    return event


def everything(source: Stream, message: Any) -> Sequence[Event]:
    return source.parse(json.dumps(message).encode(), DOCUMENTED)


def test_the_documented_examples(recordings: Path) -> None:
    examples = json.loads((recordings / "examples_documented" / "documented_examples.json").read_text())
    by_channel = {item["channel"]: item["message"] for item in examples if item["venue"] == "deribit"}
    assert parsed(INDEX, by_channel.pop("deribit_price_index.btc_usd")) == IndexPrice(
        venue="DERIBIT",
        symbol="BTC_USD",
        event_time=1550588002899000,
        received_time=NOW_US,
        price=units("3937.89"),
        connection_time=CONNECTION_US,
        connection_sequence=1,
    )
    assert parsed(INDEX, by_channel.pop("deribit_volatility_index.btc_usd")) == dvol_of_2021()
    (candles,) = by_channel.values()
    for source in (OPTIONS, TRADES, INDEX):
        with pytest.raises(BadFrame, match="neither a channel's frame nor a reply"):
            everything(source, candles)


def dvol_of_2021() -> VolatilityIndex:
    return VolatilityIndex(
        venue="DERIBIT",
        symbol="BTC_USD",
        event_time=1619777946007000,
        received_time=NOW_US,
        volatility=units("129.36"),
        connection_time=CONNECTION_US,
        connection_sequence=1,
    )


def test_the_fixtures_of_trades(recordings: Path) -> None:
    raws = [item["raw"] for item in json.loads((recordings / "fixtures" / "deribit_trades_messages.json").read_text())]
    for raw in raws[:3]:
        expected = [as_trade(data, DOCUMENTED) for data in exactly(raw.encode())["params"]["data"]]
        assert list(TRADES.parse(raw.encode(), DOCUMENTED)) == expected
    assert TRADES.parse(raws[2].encode(), DOCUMENTED) == [
        Trade(
            venue="DERIBIT",
            symbol="BTC-26MAR21-62000-C",
            event_time=1616321732986000,
            received_time=NOW_US,
            trade_id="137488100",
            sequence=1706,
            price=7 * 10**15,
            quantity=10**17,
            side="BUY",
            connection_time=CONNECTION_US,
            connection_sequence=1,
        )
    ]
    assert len(raws[3:]) == 3
    for raw in raws[3:]:
        with pytest.raises(BadFrame, match=r"channel 'chart\.trades\..*' is none that this source subscribes to"):
            TRADES.parse(raw.encode(), DOCUMENTED)


def test_the_messages_of_tardis(recordings: Path) -> None:
    fixtures = json.loads((recordings / "fixtures" / "tardis_node_mapper_messages.json").read_text())
    messages = [item["message"] for item in fixtures if item["set"] == "deribit"]
    told: Counter[str] = Counter()
    for message in messages:
        channel = message["params"]["channel"]
        name = channel.split(".")[1]
        data = exactly(json.dumps(message).encode())["params"]["data"]
        if channel.startswith("trades."):
            assert list(everything(TRADES, message)) == [as_trade(trade, DOCUMENTED) for trade in data]
            told["trades"] += 1
        elif channel.startswith("ticker.") and name[-2:] in {"-C", "-P"}:
            assert parsed(OPTIONS, message) == as_ticker(data, DOCUMENTED)
            told["option"] += 1
        else:
            with pytest.raises(BadFrame, match="is none that this source subscribes to"):
                everything(OPTIONS, message)
            told["refused"] += 1
    assert told == {"trades": 3, "option": 5, "refused": 10}


def test_an_expired_option_and_a_strike_with_a_point(recordings: Path) -> None:
    fixtures = json.loads((recordings / "fixtures" / "tardis_node_mapper_messages.json").read_text())
    by_channel = {
        item["message"]["params"]["channel"]: item["message"] for item in fixtures if item["set"] == "deribit"
    }
    expired = parsed(OPTIONS, by_channel["ticker.BTC-8JUN20-8750-P.raw"])
    assert isinstance(expired, OptionTicker)
    assert (expired.mark_price, expired.mark_iv, expired.ask_price, expired.ask_iv) == (0, 0.7, None, None)
    assert (expired.expiry, expired.last_price, expired.volume) == (1591603200000000, units("0.0005"), units("2.5"))
    linear = parsed(OPTIONS, by_channel["ticker.MATIC_USDC-9MAR24-1d02-C.raw"])
    assert isinstance(linear, OptionTicker)
    assert (linear.symbol, linear.underlying, linear.price_currency) == ("MATIC_USDC-9MAR24-1D02-C", "MATIC", "USDC")
    assert (linear.strike, linear.mark_price, linear.mark_iv) == (units("1.02"), units("0.139"), 2.0964)


def test_the_fixtures_of_nautilus(recordings: Path) -> None:
    fixtures = json.loads((recordings / "fixtures" / "nautilus_adapter_fixtures.json").read_text())
    mine = {name.rpartition("/")[2]: message for name, message in fixtures.items() if name.startswith("deribit/")}
    refused = parsed(OPTIONS, mine["ws_error.json"])
    assert isinstance(refused, Reply)
    assert (refused.error, refused.momentary) == ("too_many_requests (10028)", True)
    reply = parsed(TRADES, mine["ws_subscribe_response.json"])
    assert reply == Reply(1, None, (Feed("trades", "BTC"),), NOT_LISTED)
    assert parsed(INDEX, mine["ws_volatility_index.json"]) == dvol_of_2021()
    for name in ("ws_trades.json", "ws_trades_option_combo.json"):
        data = exactly(json.dumps(mine[name]).encode())["params"]["data"]
        assert list(everything(TRADES, mine[name])) == [as_trade(trade, DOCUMENTED) for trade in data]
    combo = parsed(TRADES, mine["ws_trades_option_combo.json"])
    assert isinstance(combo, Trade)
    assert (combo.symbol, combo.trade_id, combo.price) == ("BTC-CS-19MAY26-70000_75000", "244365193", units("0.0639"))
    for name in ("ws_ticker.json", "ws_quote.json"):
        with pytest.raises(BadFrame, match="is none that this source subscribes to"):
            everything(OPTIONS, mine[name])
    future, dated, option, combination = OPTIONS.instruments(json.dumps(mine["http_get_instruments.json"]).encode(), 7)
    assert (future.kind, dated.kind, option.kind, combination.kind) == ("PERPETUAL", "FUTURE", "OPTION", "UNKNOWN")
    assert (future.expiry, dated.expiry, combination.expiry) == (None, 1735300800000000, None)
    assert list(OPTIONS.instruments(json.dumps(mine["http_get_instrument_option.json"]).encode(), 7)) == [option]
    assert option == Instrument(
        venue="DERIBIT",
        symbol="BTC-27DEC24-100000-C",
        received_time=7,
        base="BTC",
        quote="BTC",
        kind="OPTION",
        status="active",
        tick_size=5 * 10**14,
        lot_size=10**17,
        expiry=1735300800000000,
        strike=100_000 * 10**18,
        option_side="CALL",
    )


# The wire


def test_requests_are_spelt_as_documented() -> None:
    feeds = [Feed("option_tickers", "BTC-27DEC24-100000-C"), Feed("option_tickers", "XRP_USDC-30JUN23-0D625-C")]
    channels = ["ticker.BTC-27DEC24-100000-C.100ms", "ticker.XRP_USDC-30JUN23-0d625-C.100ms"]
    assert OPTIONS.one_message(feeds) == feeds
    assert json.loads(OPTIONS.subscribe(feeds, 1)) == call(1, "public/subscribe", {"channels": channels})
    assert json.loads(OPTIONS.unsubscribe(feeds, 2)) == call(2, "public/unsubscribe", {"channels": channels})
    assert json.loads(OPTIONS.greeting(3) or "") == call(3, "public/set_heartbeat", {"interval": 30})
    trades = json.loads(TRADES.subscribe([Feed("trades", "BTC")], 4))
    assert trades["params"]["channels"] == ["trades.option.BTC.100ms"]
    index = json.loads(INDEX.subscribe([Feed("index_prices", "BTC_USD"), Feed("volatility_index", "BTC_USD")], 5))
    assert index["params"]["channels"] == ["deribit_price_index.btc_usd", "deribit_volatility_index.btc_usd"]


def call(number: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def test_a_test_request_is_answered_by_a_call_whose_reply_says_nothing() -> None:
    asked = {"jsonrpc": "2.0", "method": "heartbeat", "params": {"type": "test_request"}}
    for source in (OPTIONS, TRADES, INDEX):
        answer = parsed(source, asked)
        assert isinstance(answer, Answer)
        assert json.loads(answer.text) == call(0, "public/test", {})
        assert everything(source, {"jsonrpc": "2.0", "id": 0, "result": {"version": "1.2.26"}}) == ()


@pytest.mark.parametrize("code", [10028, 10040, 10041, 10047, 10066, 11051, 13028, 13888])
def test_a_refusal_of_the_moment_is_no_refusal_of_the_channels(code: int) -> None:
    error = {"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": "later"}}
    assert parsed(OPTIONS, error) == Reply(1, f"later ({code})", None, momentary=True)


def test_what_needs_no_listing_is_there_before_it() -> None:
    assert TRADES.market_feeds((), ["BTC", "eth"]) == [Feed("trades", "BTC"), Feed("trades", "ETH")]
    assert INDEX.market_feeds((), ["BTC"]) == [Feed("index_prices", "BTC_USD"), Feed("volatility_index", "BTC_USD")]
    assert OPTIONS.market_feeds((), ["BTC"]) == []


def test_options_that_have_ended_and_those_of_other_currencies_are_not_collected() -> None:
    kinds = [("BTC-A", "BTC", "open"), ("BTC-B", "BTC", "closed"), ("BTC_USDC-C", "USDC", "open")]
    listed = [
        Instrument(venue="DERIBIT", symbol=name, received_time=1, base="BTC", quote=quote, kind="OPTION", status=status)
        for name, quote, status in kinds
    ]
    assert OPTIONS.market_feeds(listed, ["BTC"]) == [Feed("option_tickers", "BTC-A")]
    assert OPTIONS.market_feeds(listed, ["USDC"]) == [Feed("option_tickers", "BTC_USDC-C")]


def test_a_trade_comes_in_the_feed_of_its_currency() -> None:
    for name, currency in [("BTC-27DEC24-100000-C", "BTC"), ("XRP_USDC-30JUN23-0D625-C", "USDC"), ("BTC", "BTC")]:
        assert currency_of(name) == currency
        assert TRADES.feed("trades", name) == Feed("trades", currency)


def test_only_the_point_of_a_strike_is_a_small_d() -> None:
    assert spelled("XRP_USDC-30JUN23-0D625-C") == "XRP_USDC-30JUN23-0d625-C"
    assert spelled("BTC-27DEC24-100000-P") == "BTC-27DEC24-100000-P"
    assert spelled("DOGE_USDC-5DEC25-0D2-P") == "DOGE_USDC-5DEC25-0d2-P"


def test_addresses() -> None:
    path = "https://www/api/v2/public"
    listing = f"{path}/get_instruments?currency=any&kind=option&expired=false"
    assert OPTIONS.listing("https://www/api/v2/", None).url == TRADES.listing("https://www/api/v2", None).url == listing
    assert INDEX.listing("https://www/api/v2/", None).url == f"{path}/get_index_price_names"
    name = "XRP_USDC-30JUN23-0D625-C"
    one = f"{path}/get_instrument?instrument_name=XRP_USDC-30JUN23-0d625-C"
    assert OPTIONS.listing("https://www/api/v2", name).url == one
    for source in (OPTIONS, TRADES, INDEX):
        assert source.socket_url("wss://ws", source.channels[0]) == "wss://ws"
        assert source.symbol_of("BTC", "USD") == "BTC_USD"


def test_all_sources_share_deribits_budgets() -> None:
    assert OPTIONS.limits == TRADES.limits == INDEX.limits == Deribit.limits


def test_an_unknown_instrument_is_refused_for_good_and_nothing_else_is() -> None:
    body = b'{"jsonrpc":"2.0","error":{"message":"Invalid params","data":{"reason":"unknown"},"code":-32602}}'
    assert OPTIONS.refusal(400, body) == "Invalid params (-32602): unknown"
    assert OPTIONS.refusal(500, body) is None
    assert OPTIONS.refusal(429, b'{"error":{"message":"too_many_requests","code":10028}}') is None
    assert OPTIONS.refusal(502, b"<html>") is None
