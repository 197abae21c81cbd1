"""What the books of venues have in common that tell all of a book once, and then its changes."""

from simulator.contract import Frame, Snapshot, Unreadable
from simulator.events import DepthDiff


class ToldByChanges:
    """Part of `simulator.contract.Books`: there is no top of the book, no REST, and recorded frames are not read."""

    def top_stream(self, symbol: str) -> str:
        return ""

    def read_depth(self, frame: Frame) -> DepthDiff:
        raise Unreadable("recorded books are played as they are")

    def read_snapshot(self, body: bytes) -> Snapshot:
        raise Unreadable("there are no depth responses here")

    def spacing_ns(self, diff: Frame) -> int:
        return 0
