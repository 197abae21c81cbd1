"""The simulator of a demo, as its own pages tell of it: what it has issued, and what it has sent of each feed."""

import json
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ravencore.errors import Unavailable
from ravenctl.feeds import Name, Sent

HTTP_S = 30.0

Stats = Mapping[str, Any]


class Simulator:
    """Asks the simulator at a URL; `log` is where it writes."""

    def __init__(self, url: str, log: Path) -> None:
        self._url, self._log = url, log

    def stats(self) -> Stats:
        """Its counts; raises Unavailable."""
        found: Stats = self._get("/sim/stats")
        return found

    def sent(self, name: Name) -> dict[str, Sent]:
        """By symbol, what it has made and sent of a feed; raises Unavailable."""
        query = urllib.parse.urlencode(name._asdict())
        return {
            symbol: Sent(row["issued"], row["delivered"], row["ids"], set(map(int, row["repeated"])))
            for symbol, row in self._get(f"/sim/ledger?{query}")["symbols"].items()
        }

    def _get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"{self._url}{path}", timeout=HTTP_S) as response:
                return json.load(response)
        except OSError as error:
            raise Unavailable(f"the simulator does not answer ({error}): see {self._log}") from None
