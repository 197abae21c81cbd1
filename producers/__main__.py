"""`python -m producers`: the collector, configured by files and RAVEN_* variables (`ravencore.config`)."""

from producers.collector.service import collect
from ravencore.service import run

if __name__ == "__main__":
    run(collect)
