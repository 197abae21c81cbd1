"""Every store by its name: a new one is a file under stores/ and a line here."""

from collections.abc import Callable

from ravencore.config import Settings
from sinks.contract import Store
from sinks.stores.cache import Cache
from sinks.stores.influx import Influx
from sinks.stores.lake import Lake
from sinks.stores.timescale import Timescale

STORES: dict[str, Callable[[Settings], Store]] = {
    "influx": Influx,
    "lake": Lake,
    "timescale": Timescale,
    "redis": Cache,
}
