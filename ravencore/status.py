"""What a service says of itself: counters for Prometheus and, once a second, its line in `raven.status`."""

import contextlib
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from confluent_kafka import Producer
from prometheus_client import start_http_server
from prometheus_client.core import REGISTRY, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ravencore import __version__
from ravencore.config import Settings, instance_name
from ravencore.errors import ConfigError
from ravencore.records import ServiceState, ServiceStatus, Subscription
from ravencore.topics import STATUS


class Encoder(Protocol):
    """What spells a status for Kafka: the Codec, or what is faster where there is much to tell."""

    def encode(self, record: ServiceStatus) -> bytes:
        """The status as a Kafka value."""


class Reporter(Collector):
    """Counts, levels and lags of this process; `report` writes them to `raven.status` and Prometheus reads them."""

    def __init__(self, service: str, settings: Settings, codec: Encoder, kafka: Producer, now_us: int) -> None:
        self.service = settings.service.name or service
        self.instance = instance_name(settings, service)
        self.state: ServiceState = "STARTING"
        self.counters: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}
        self.lag: dict[str, int] = {}
        self._codec, self._kafka, self._started = codec, kafka, now_us
        self._error: str | None = None
        self._error_time: int | None = None
        if settings.service.metrics_port is not None:
            REGISTRY.register(self)
            _serve_metrics(settings.service.metrics_port)

    def error(self, text: str, now_us: int) -> None:
        """Keep the newest error, as one sentence for `ravenctl status`."""
        self._error, self._error_time = text[:1000], now_us

    def report(self, now_us: int, subscriptions: tuple[Subscription, ...] = ()) -> None:
        """Hand this instant's status to the producer; it is sent with the producer's other records."""
        status = ServiceStatus(
            service=self.service,
            instance=self.instance,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            state=self.state,
            started_time=self._started,
            reported_time=now_us,
            subscriptions=subscriptions,
            counters=dict(self.counters),
            gauges=dict(self.gauges),
            lag=dict(self.lag),
            last_error=self._error,
            last_error_time=self._error_time,
        )
        # A broker that is away must not stop the service over its status: the next second brings a newer one.
        with contextlib.suppress(BufferError):
            self._kafka.produce(STATUS, self._codec.encode(status), self.instance.encode())
        self._kafka.poll(0)

    def collect(self) -> Iterator[Metric]:
        """Counters, gauges and lag as Prometheus gauges `raven_<name>`, labelled by service and instance."""
        for name, value in [*self.counters.items(), *self.gauges.items(), ("lag", sum(self.lag.values()))]:
            family = GaugeMetricFamily(f"raven_{name}", f"Raven's {name}.", labels=["service", "instance"])
            family.add_metric([self.service, self.instance], value)
            yield family


def _serve_metrics(port: int) -> None:
    try:
        start_http_server(port)
    except OSError as error:
        raise ConfigError(
            f"port {port} cannot be used for metrics ({error.strerror}): name a free one by "
            "RAVEN_SERVICE__METRICS_PORT, one for each service of this machine, or unset it"
        ) from None


def now_us() -> int:
    """Microseconds since the epoch: the shells' clock; pure code takes the time as an argument."""
    return time.time_ns() // 1000
