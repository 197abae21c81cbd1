"""Which records a store shall keep, by what is demanded; pure."""

from ravencore.graph import Standing, output_of


class Selection(dict[tuple[str, bytes | None], bool | None]):
    """By topic and Kafka key, whether demands want it in a store; None where no demand names it.

    What no demand can be about is wanted. Each answer is worked out once: a poll brings thousands of records.
    """

    def __init__(self, store: str, standing: Standing) -> None:
        super().__init__()
        self.standing = standing
        self._store = store

    def __missing__(self, at: tuple[str, bytes | None]) -> bool | None:
        topic, key = at
        output, text = output_of(topic), _text(key)
        wanted = True if output is None or text is None else self.standing.keeps(self._store, output, text)
        self[at] = wanted
        return wanted


def _text(key: bytes | None) -> str | None:
    try:
        return None if key is None else key.decode()
    except UnicodeDecodeError:
        return None
