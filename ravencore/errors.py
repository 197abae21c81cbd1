"""Raven's errors.

    RavenError                  anything Raven raises on purpose
    ├── ConfigError             a setting is wrong; says which and what to write instead
    ├── BadValue                a number or time on the wire that Raven cannot hold exactly
    ├── Unreadable              bytes that are no record: wrong framing, unknown schema, torn payload
    └── Unavailable             something Raven needs is away; retriable

Classes hold data; `str()` is one sentence for a person that says what to do where something can be done.
"""


class RavenError(Exception):
    """Base of every error Raven raises on purpose."""

    retriable = False


class ConfigError(RavenError):
    """Raised when a setting is missing, misspelt or out of range."""


class BadValue(RavenError):
    """Raised when a value on the wire is no number or time that decimal(38,18) or int64 microseconds can hold."""


class Unreadable(RavenError):
    """Raised when bytes are not a record of a known schema in Confluent framing."""


class Unavailable(RavenError):
    """Raised when a broker, database or exchange cannot be reached now; the same call may succeed later."""

    retriable = True
