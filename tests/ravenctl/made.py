"""Records made for tests."""

from typing import Any

from ravencore.records import Gap, ServiceStatus, Trade

TIME = 1_723_161_254_000_000


def trade(sequence: int, symbol: str = "BTCUSDT") -> Trade:
    """A trade of one second per id."""
    return Trade(
        venue="BINANCE_SPOT",
        symbol=symbol,
        event_time=TIME + sequence * 1_000_000,
        received_time=TIME + sequence * 1_000_000 + 42,
        trade_id=str(sequence),
        sequence=sequence,
        price=61_000_120000000000000000,
        quantity=1500000000000000,
        side="BUY",
    )


def gap(first: int | None, last: int | None) -> Gap:
    """A hole in the trades of BTCUSDT."""
    return Gap(
        gap_id=f"{first}-{last}",
        venue="BINANCE_SPOT",
        channel="trades",
        symbol="BTCUSDT",
        cause="SEQUENCE",
        from_sequence=first,
        to_sequence=last,
        to_time=TIME,
        detected_time=TIME,
        connection="ws://here 1",
        detail="the ids jump",
    )


def status(service: str, started_time: int = 1, **counters: int) -> ServiceStatus:
    """A service that runs."""
    fields: dict[str, Any] = {"host": "here", "pid": 1, "version": "0", "state": "RUNNING", "reported_time": TIME}
    return ServiceStatus(
        service=service, instance=f"{service}-0", started_time=started_time, counters=counters, **fields
    )
