"""What can go wrong with the local stack in a way its user can do something about."""

from ravencore.errors import RavenError


class StackError(RavenError):
    """Raised when the local stack cannot do what was asked; the message is one line and says what to do."""
