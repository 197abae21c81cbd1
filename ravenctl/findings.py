"""What a check of `ravenctl doctor` comes to."""

from typing import Literal, NamedTuple

Level = Literal["ok", "warning", "FAILED"]


class Finding(NamedTuple):
    """What one check found, and what to do about it where something is to be done."""

    check: str
    level: Level
    text: str
    todo: str = ""


def ok(check: str, text: str) -> Finding:
    """As it should be."""
    return Finding(check, "ok", text)


def warning(check: str, text: str, todo: str) -> Finding:
    """Something that may be meant so, or that harms little."""
    return Finding(check, "warning", text, todo)


def failed(check: str, text: str, todo: str) -> Finding:
    """Something does not work."""
    return Finding(check, "FAILED", text, todo)
