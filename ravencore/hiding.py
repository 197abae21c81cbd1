"""Secrets are never shown; pure."""

import re

HIDDEN = "***"
_SECRET_QUERY = re.compile(r"(?i)([?&][^=&]*(?:pass|pwd|secret|token|key|sig|credential)[^=&]*=)[^&\s]*")


def without_password(text: str) -> str:
    """A text in which the password of a URL, before its host or in its query, is hidden."""
    scheme, found, rest = text.partition("://")
    if found and "@" in rest:
        user, _, host = rest.rpartition("@")
        name, colon, _ = user.partition(":")
        text = f"{scheme}://{name + colon if colon else ''}{HIDDEN}@{host}"
    return _SECRET_QUERY.sub(rf"\1{HIDDEN}", text)
