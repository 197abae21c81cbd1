"""Which venue a recording is of: its frames say so. Only where no frame does, words in its path decide.

`VENUE=FILE` forces a venue. A file whose name holds `.rest_depth.frames` or `.rest.jsonl` holds REST answers; those
that stand beside a recording (`X.frames.zst`, `X.rest.jsonl.zst`) belong to it and come with it.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from simulator.contract import Dialect, SimulatorError
from simulator.recording import Files, lines, read_bodies

BODIES = ".rest.jsonl"
DEPTHS = ".rest_depth.frames"


def sort(arguments: Sequence[str], dialects: Collection[Dialect]) -> dict[str, Files]:
    """The files by venue. Raises SimulatorError for a file that no venue claims."""
    sorted_: dict[str, Files] = {}
    given = [_forced(argument, dialects) for argument in arguments]
    present = {path for _, path in given}
    for venue, path in given:
        if DEPTHS not in path.name:
            found = venue or _venue(path, dialects)
            _put(sorted_.setdefault(found, Files()), path, present)
    alone = [path for _, path in given if DEPTHS in path.name and not _placed(path, sorted_)]
    for path in alone:
        _guest(path, sorted_).depths.append(path)
    return sorted_


def _forced(argument: str, dialects: Iterable[Dialect]) -> tuple[str | None, Path]:
    venue, equals, path = argument.partition("=")
    known = {dialect.venue for dialect in dialects}
    return (venue, Path(path)) if equals and venue in known else (None, Path(argument))


def _put(files: Files, path: Path, present: Collection[Path]) -> None:
    if BODIES in path.name:
        if path not in files.bodies:
            files.bodies.append(path)
        return
    files.frames.append(path)
    for beside, kept in ((DEPTHS, files.depths), (BODIES, files.bodies)):
        for other in _beside(path, beside):
            if other not in kept and (other in present or other.exists()):
                kept.append(other)


def _beside(path: Path, kind: str) -> list[Path]:
    stem, found, _ = path.name.partition(".frames")
    return [path.with_name(stem + kind + ending) for ending in (".zst", "")] if found else []


def _placed(path: Path, found: dict[str, Files]) -> bool:
    return any(path in files.depths for files in found.values())


def _guest(path: Path, found: dict[str, Files]) -> Files:
    """Where depth responses go that stand beside no recording: to the only venue that is played."""
    if len(found) != 1:
        raise SimulatorError(f"{path}: which recording is it of? None beside it is named")
    return next(iter(found.values()))


def _venue(path: Path, dialects: Collection[Dialect]) -> str:
    for raw in _evidence(path):
        claimed = [dialect.venue for dialect in dialects if dialect.claims(raw)]
        if len(claimed) == 1:
            return claimed[0]
    named = [dialect.venue for dialect in dialects if any(word in str(path).lower() for word in dialect.words)]
    if len(named) == 1:
        return named[0]
    known = ", ".join(dialect.venue for dialect in dialects)
    raise SimulatorError(f"{path}: no frame tells its venue; write VENUE={path.name} with one of: {known}")


def _evidence(path: Path) -> Iterator[bytes]:
    if BODIES in path.name:
        return (body.url.encode() for body in read_bodies(path))
    return (raw for _, raw in lines(path))
