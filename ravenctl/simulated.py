"""The simulator of a demo, as its own pages tell of it: what it has issued, sent and done, and its books."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from producers.contract import TRADES
from ravencore.errors import Unavailable
from ravenctl.feeds import Digests, Name, Sent

HTTP_S = 30.0
NOT_FOUND = 404

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
        """By symbol, what it has made, sent and withheld of a feed; raises Unavailable."""
        told = self._get("/sim/ledger", **name._asdict())
        return {symbol: _sent(name, row, told["issued"].get(symbol, ())) for symbol, row in told["symbols"].items()}

    def book(self, venue: str, symbol: str) -> Digests:
        """What a symbol's book was after each of its last changes, None where it keeps none; raises Unavailable."""
        told = self._get("/sim/books", venue=venue, symbol=symbol)
        return {int(key): digest for key, digest in told.items()} or None

    def repeated_trades(self) -> int:
        """How many trades it has sent again to do harm; raises Unavailable."""
        faults = self._get("/sim/faults")
        return sum(len(one["ids"]) for one in faults if (one["kind"], one.get("channel")) == ("duplicate", TRADES))

    def _get(self, path: str, **query: str) -> Any:
        try:
            with urllib.request.urlopen(
                f"{self._url}{path}?{urllib.parse.urlencode(query)}", timeout=HTTP_S
            ) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code == NOT_FOUND:
                return {}
            raise Unavailable(f"the simulator answers {error.code} to {path}: see {self._log}") from None
        except OSError as error:
            raise Unavailable(f"the simulator does not answer ({error}): see {self._log}") from None


def _sent(name: Name, row: Mapping[str, Any], made: Sequence[Sequence[int]]) -> Sent:
    """Only trades count so that what nobody was sent is missed."""
    withheld = sorted({number for number, _ in made} - set(row["ids"])) if name.channel == TRADES else ()
    return Sent(row["issued"], row["delivered"], row["ids"], set(map(int, row["repeated"])), withheld)
