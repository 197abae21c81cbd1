"""One feed of a session: how far its subscription has come on a connection, and the continuity of its records."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from producers.booktape import BookTape
from producers.contract import BookUpdate, Feed, Sequencer
from producers.feedtape import FeedTape, MarketTape
from producers.pace import Patience
from producers.tape import Break, CountedTape, Output
from ravencore.records import SubscriptionState

LAST_FRAMES_SECONDS = 10.0
"""What is under way when a feed ends comes within this time."""
Phase = Literal["off", "asked", "live", "ending"]
"""Not subscribed on this connection; SUBSCRIBE sent; acknowledged; UNSUBSCRIBE sent."""


@dataclass(slots=True)
class Tapes:
    """What is known of a feed's records, whichever connection brings them."""

    patience: Patience
    counted: dict[str, CountedTape] = field(default_factory=dict)
    """By symbol, of a feed whose records have counting ids; it may bring many."""
    whole: MarketTape | None = None
    """Of a feed of counted records of many symbols."""
    others: FeedTape | None = None
    book: BookTape | None = None
    """Of a book that Raven keeps."""

    def interrupt(self, why: Break, now_us: int, connection: str) -> list[Output]:
        """The feed breaks off."""
        out: list[Output] = []
        for tape in (self.whole, self.others, self.book):
            if tape is not None:
                tape.interrupt(why, now_us)
        for counted in self.counted.values():
            out += counted.interrupt(why, now_us, connection)
        return out

    def refuse(self, why: Break, now_us: int) -> None:
        """The venue will not have the feed, which has broken off."""
        for tape in self.lasting:
            tape.refuse(why, now_us)

    @property
    def duplicates(self) -> int:
        """Records that had come before."""
        counted = sum(tape.duplicates for tape in self.counted.values())
        return counted + (self.others.duplicates if self.others is not None else 0)

    def begin(self, now_us: int) -> None:
        """The venue has acknowledged the feed."""
        if self.others is not None:
            self.others.begin(now_us)
        for tape in self.counted.values():
            tape.begin(now_us)

    @property
    def lasting(self) -> Iterable[CountedTape | MarketTape | FeedTape | BookTape]:
        """Those whose breaks are told while they last."""
        one = self.whole or self.others or self.book
        return (one,) if one is not None else self.counted.values()


class Cure(NamedTuple):
    """Why a subscription is to be ended and made anew, and whether on another connection."""

    why: Break
    moves: bool


@dataclass(slots=True)
class Line:
    """One feed on one connection."""

    feed: Feed
    tapes: Tapes
    wanted: bool = False
    phase: Phase = "off"
    flowing: bool = False
    first_frame: int = 0
    """Number of the frame since which it flows."""
    last_received_us: int | None = None
    refused: str | None = None
    alone: bool = False
    """A request for it and others was refused: ask for it by itself, to learn which one it was."""
    cure: Cure | None = None
    cures: int = 0
    """How many were tried since the last record."""
    suspected: bool = False
    """REST is asked whether there is anything that it should have brought."""
    stranded: bool = False
    """It waits to be taken to another connection."""
    shadow: bool = False
    """Another connection still brings the same."""
    sequencer: Sequencer | None = None
    update: BookUpdate | None = None
    """The last that changed the book."""
    snapshot_asked: bool = False
    snapshot_at: float = 0.0
    snapshots_failed: int = 0
    ended_at: float | None = None
    """Since when it is neither wanted nor subscribed."""
    sweep_at: float | None = None
    """When to ask what was missed, if nothing has come by then."""

    @property
    def ready(self) -> bool:
        """Whether it would go on without a hole if the other connection ended now."""
        in_step = self.sequencer is None or self.sequencer.in_step
        return not self.wanted or self.refused is not None or (self.phase == "live" and in_step)

    @property
    def state(self) -> SubscriptionState:
        """As `raven.status` shows it."""
        if self.refused is not None:
            return "REFUSED"
        if self.cures:
            return "SILENT"
        if self.flowing:
            return "FLOWING"
        return "SUBSCRIBED" if self.phase in ("live", "ending") else "CONNECTING"

    def in_shadow(self) -> "Line":
        """The same feed for another connection, to take this one's place."""
        return Line(self.feed, self.tapes, wanted=True, shadow=True)

    def heard(self, now: float) -> None:
        """Something came: a silence is over, and needs no cure unless that is under way."""
        self.suspected = False
        if self.cures:
            self.cures = 0
            if self.cure is not None and self.cure.why.cause == "SILENCE" and self.phase == "live":
                self.cure = None
        self.tapes.patience.heard(now)

    def repeated(self, now: float) -> None:
        """What came is how things stand, as a subscription begins with, and tells nothing of the feed's pace."""
        self.tapes.patience.start(now)

    def has_ended(self, now: float, seconds: float) -> bool:
        """Whether it has been neither wanted nor subscribed for so long; to be asked again and again."""
        if self.wanted or self.phase != "off":
            self.ended_at = None
            return False
        self.ended_at = now if self.ended_at is None else self.ended_at
        return now - self.ended_at >= seconds

    def off(self) -> None:
        """Nothing comes on this connection any more."""
        self.phase, self.flowing, self.suspected = "off", False, False
        self.sequencer = self.update = self.sweep_at = None
        self.snapshot_asked = False
        if not self.shadow:
            self.tapes.patience.stop()
