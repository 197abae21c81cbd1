"""`python -m producers`: the collector, configured by files and RAVEN_* variables (`ravencore.config`)."""

from producers.check import check
from producers.collector.service import collect
from ravencore.config import Settings
from ravencore.service import run


def main(settings: Settings) -> None:
    """Collect, unless the settings name what there is not."""
    check(settings.routing)
    collect(settings)


if __name__ == "__main__":
    run(main)
