"""A service as small as can be, for tests that look at services and end them: `small_service.py NAME [deaf] [HOME]`.

`deaf`: it does not mind being asked to end. It dies with code 3 once the file `HOME/die-NAME` is there.
"""

import sys
import threading
from pathlib import Path

from confluent_kafka import Message

from ravencore import kafka, service
from ravencore.config import Settings, load
from ravencore.demands import Control
from ravencore.graph import Standing
from ravencore.records import Subscription
from ravencore.status import Reporter, now_us

FEED = Subscription(
    venue="KRAKEN", channel="trades", symbol="BTC/USD", state="FLOWING", last_gap_time=1, last_gap_cause="SILENCE"
)


class Asked:
    """Whether it was asked to end."""

    def __init__(self) -> None:
        self.ending = threading.Event()

    def on_demands(self, standing: Standing, made: bool) -> None:
        """Minds none."""

    def on_unreadable(self, message: Message, why: str) -> None:
        """Minds none."""

    def on_shutdown(self, user: str) -> None:
        """End."""
        self.ending.set()


def main(settings: Settings, name: str, *, deaf: bool, home: Path) -> None:
    """Report every 0.2 s until it is asked to end."""
    codec = service.codec(settings)
    producer = kafka.producer(settings.kafka)
    kafka.ensure_topics(settings.kafka)
    asked = Asked()
    control = Control(settings.kafka, codec, name, asked)
    control.ready.wait(20)
    reporter = Reporter(name, settings, codec, producer, now_us())
    reporter.state = "RUNNING"
    while deaf or not asked.ending.is_set():
        if (home / f"die-{name}").exists():
            sys.exit("the disk is full")
        reporter.report(now_us(), (FEED,) if name == "collector" else ())
        asked.ending.wait(0.2) if not deaf else threading.Event().wait(0.2)
    control.stop()
    reporter.state = "STOPPED"
    reporter.report(now_us())
    producer.flush(10)


if __name__ == "__main__":
    main(load(), sys.argv[1], deaf="deaf" in sys.argv, home=Path(sys.argv[-1]))
