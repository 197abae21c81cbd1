"""`make kills`: a replay during which workers are killed again and again, and the broker once, against one in peace.

Two workers share the partitions. Each kill is `kill -9` at a moment that chance chooses; whoever was killed comes back
in its slot at once. At the end the committed records of every derived topic, the dead letters and the state must be
those of the run in which nothing happened, record for record.
"""

import argparse
import random
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from ravenctl.local.broker import Broker
from tests.processors.rig import House, Made, Worker, house_of, until

SLOTS = ("engine-0", "engine-1")
PATIENCE_S = 600.0


def main() -> int:
    """Run both and compare; the exit code says whether they are equal."""
    parser = argparse.ArgumentParser(description="Kills during a replay.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--trades", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder, Broker() as broker, Progress(console=console) as bars:
        task = bars.add_task("in peace", total=given.kills + 1)
        peace = in_peace(broker, Path(folder), given.trades)
        bars.update(task, advance=1, description="with kills")
        with house_of(broker, Path(folder)) as house:
            for _ in kills(house, given.trades, given.kills, random.Random(given.seed)):
                bars.advance(task)
            harried = house.made()
    differing = [name for name in Made._fields if getattr(peace, name) != getattr(harried, name)]
    count = sum(map(len, peace.outputs.values()))
    if differing:
        console.print(f"[red]not equal[/]: {', '.join(differing)} differ after {given.kills} kills (seed {given.seed})")
        return 1
    console.print(
        f"equal: {given.trades:,} trades, {given.kills} kills of two workers, one restart of the broker; {count:,} "
        f"derived records, {len(peace.dead)} dead letters and {len(peace.state)} snapshots are those of a run in peace"
    )
    return 0


def in_peace(broker: Broker, folder: Path, trades: int) -> Made:
    """What one worker makes of the tape."""
    with house_of(broker, folder) as house:
        house.feed(trades).send(1)
        house.start()
        until(lambda: house.lag() == 0, "everything committed", PATIENCE_S)
        return house.made()


def kills(house: House, trades: int, count: int, rng: random.Random) -> Iterator[int]:
    """Have two workers fold the tape, and yield after each kill."""
    feed = house.feed(trades)
    workers = {slot: house.start(slot) for slot in SLOTS}
    for number in range(count):
        feed.send(1 / (count + 1))
        if number == count // 2:
            house.broker.kill()
            house.broker.start()
        kill(house, workers, rng)
        yield number
    feed.send(1)
    until(lambda: house.lag() == 0, "everything committed", PATIENCE_S)
    assert [worker.end() for worker in workers.values()] == [0, 0]


def kill(house: House, workers: dict[str, Worker], rng: random.Random) -> None:
    """Kill a worker when some part of what was sent is done, and start it again."""
    slot = rng.choice(SLOTS)
    left = round(rng.random() * house.lag())
    until(lambda: house.lag() <= left, "part of the tape done", PATIENCE_S)
    workers[slot].end(signal.SIGKILL)
    workers[slot] = house.start(slot)


if __name__ == "__main__":
    sys.exit(main())
