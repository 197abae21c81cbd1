"""`python -m processors` that says as JSON how long it took to be RUNNING since it was started at argument 1.

All in seconds since then: `process` until all is imported, `topics` until Faust is started, `group` until it has its
partitions, `state` until theirs is restored; `running` is their sum.
"""

import json
import sys
import time
from itertools import pairwise
from typing import Any

from processors import __main__ as program
from processors.engine import Engine

marks = {"started": float(sys.argv[1])}


class Timed(Engine):
    """The engine with a clock; of several rebalances the last one counts."""

    async def run(self) -> int:
        """As the engine."""
        marks["process"] = time.time()
        return await super().run()

    def _connect(self, app: Any) -> None:
        marks["topics"] = time.time()
        super()._connect(app)

    async def _on_assigned(self, app: Any, assigned: set[Any], **extra: Any) -> None:
        marks["group"] = time.time()
        await super()._on_assigned(app, assigned, **extra)

    async def _on_rebalance_complete(self, app: Any, **extra: Any) -> None:
        await super()._on_rebalance_complete(app, **extra)
        if self._lanes and self._state() == "RUNNING" and "state" not in marks:
            marks["state"] = time.time()
            print(json.dumps(parts()), flush=True)


def parts() -> dict[str, float]:
    """What each part took."""
    names = list(marks)
    took = {name: marks[name] - marks[before] for before, name in pairwise(names)}
    return {**took, "running": marks["state"] - marks["started"]}


if __name__ == "__main__":
    program.Engine = Timed  # type: ignore[attr-defined] # it only imports it
    program.main([])
