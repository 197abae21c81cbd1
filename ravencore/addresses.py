"""Addresses with passwords in them: whether they are written rightly, said without what they are; pure.

Libraries quote what they cannot read, and a password with an @ or a / in it is what they cannot read.
"""

import re
from collections.abc import Collection

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:(?P<user>[^/?#@]*)@)?(?P<hosts>[^/?#@]*)(?:[/?#][^@]*)?")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[^:\[\]\s]*)(?::(?P<port>\d{1,5}))?")
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_WORDS = re.compile(r"\s*(?:[a-z_]+\s*=\s*(?:'(?:[^'\\]|\\.)*'|[^\s']+)\s*)*")
LAST_PORT = 65_535
ESCAPED = "a user or password with any of @ : / ? # % in it has them as %40 %3A %2F %3F %23 %25"


def check_url(text: str, schemes: Collection[str], example: str) -> None:
    """Raises ValueError, which does not quote it, where a text is no URL with one of these schemes."""
    found = _URL.fullmatch(text)
    if (
        found is None
        or found["scheme"] not in schemes
        or not all(_is_host(host) for host in found["hosts"].split(","))
        or _PERCENT.search(found["user"] or "")
        or (found["user"] or "").count(":") > 1
    ):
        raise ValueError(f"is no address: write it like {example}; {ESCAPED}")


def _is_host(text: str) -> bool:
    found = _HOST.fullmatch(text)
    return found is not None and int(found["port"] or 0) <= LAST_PORT


def check_dsn(text: str) -> None:
    """Raises ValueError, which does not quote it, where a text is neither a URL of PostgreSQL nor key=value words.

    https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING
    """
    if "://" in text or not _WORDS.fullmatch(text):
        check_url(text, ("postgresql", "postgres"), "postgresql://user:password@host:5432/database")
