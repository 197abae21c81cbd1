"""`make chaos`: every feed against exchanges that do it every kind of harm, and whether all of it is accounted for.

    python -m tests.chaos.run --seed 7 --duration 10m
    python -m tests.chaos.run --again .raven/chaos      the verdict on a run that was kept, once more

The exit code is 0 only when every promise of docs/continuity.md held. What a run leaves behind when it did not hold
(logs, and the evidence that the verdict was made of) is kept.
"""

import argparse
import json
import pickle
import shutil
import sys
from pathlib import Path
from urllib.error import HTTPError

from rich.console import Console

from ravencore.errors import RavenError
from ravenctl import shell
from ravenctl.local.broker import Broker
from simulator.__main__ import duration_ns
from tests.chaos.case import Case
from tests.chaos.evidence import Evidence
from tests.chaos.market import ChaosFailed, Plan, run
from tests.chaos.show import View, figures, report
from tests.chaos.verdict import judge

HOME = Path(".raven/chaos")
EVIDENCE = "evidence.pickle"


def parser() -> argparse.ArgumentParser:
    description, _, rest = (__doc__ or "").partition("\n\n")
    command = argparse.ArgumentParser(
        "make chaos", description=description, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument("--seed", type=int, default=0, help="of the markets and of what is done to them")
    command.add_argument("--duration", type=_seconds, default=600.0, help="of the market, like 90s or 10m")
    command.add_argument("--symbols", default=",".join(Plan.symbols), help="pairs, like BTCUSDT,ETHUSDT")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures and every finding")
    command.add_argument("--home", type=Path, default=HOME, help="folder of the logs and the evidence")
    command.add_argument("--keep", action="store_true", help="keep that folder even where all held")
    command.add_argument("--again", type=Path, metavar="HOME", help="judge the evidence of a run that was kept")
    return command


def _seconds(text: str) -> float:
    return duration_ns(text) / 1e9


def main() -> int:
    options = parser().parse_args()
    console = shell.console()
    try:
        found = _kept(options.again) if options.again else _made(options, console)
    except (ChaosFailed, RavenError, HTTPError) as error:
        console.print(f"no verdict: {error}", style="bold red", soft_wrap=True)
        return 2
    case, findings = Case(found), judge(found)
    report(console, case, findings)
    if options.json:
        options.json.write_text(json.dumps(figures(case, findings), indent=2) + "\n")
    if findings and not options.again:
        console.print(f"kept for a look: {options.home}", soft_wrap=True)
    elif not options.keep and not options.again:
        shutil.rmtree(options.home, ignore_errors=True)
    return 1 if findings else 0


def _kept(home: Path) -> Evidence:
    try:
        with (home / EVIDENCE).open("rb") as reading:
            found: Evidence = pickle.load(reading)
    except OSError as error:
        raise ChaosFailed(f"{home} holds no evidence of a run: {EVIDENCE}: {error.strerror}") from None
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError) as error:
        raise ChaosFailed(f"{home / EVIDENCE} is no evidence that can be read: {error}") from None
    return found


def _made(options: argparse.Namespace, console: Console) -> Evidence:
    home: Path = options.home
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    symbols = tuple(name.strip().upper() for name in options.symbols.split(",") if name.strip())
    with Broker() as broker, View(console) as view:
        found = run(Plan(options.seed, options.duration, symbols), broker.bootstrap, home, view.show)
    with (home / EVIDENCE).open("wb") as writing:
        pickle.dump(found, writing)
    return found


if __name__ == "__main__":
    sys.exit(main())
