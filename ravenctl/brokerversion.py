"""Which Kafka a broker is, as its answer to ApiVersions tells: librdkafka asks for it and passes it on to nobody.

Protocol: https://kafka.apache.org/protocol.html#The_Messages_ApiVersions ; levels of the feature metadata.version:
https://github.com/apache/kafka/blob/4.1/server-common/src/main/java/org/apache/kafka/server/common/MetadataVersion.java
"""

import socket
import struct

API_VERSIONS, VERSION, CORRELATION = 18, 3, 1
RELEASES = (
    (28, "4.2"),
    (26, "4.1"),
    (22, "4.0"),
    (21, "3.9"),
    (20, "3.8"),
    (15, "3.7"),
    (12, "3.6"),
    (9, "3.5"),
    (8, "3.4"),
)
"""The first level of each release, newest first."""
FINALIZED = 2
"""Tag of the features that a cluster has agreed on."""


def version(server: str, timeout_s: float) -> str:
    """`4.1`, the release whose features the cluster has agreed on; `unknown` for an older one. Raises OSError."""
    host, _, port = server.strip().rpartition(":")
    name = b"ravenctl"
    body = struct.pack(">hhih", API_VERSIONS, VERSION, CORRELATION, len(name)) + name + b"\0"
    for text in (name, b"1"):
        body += _varint(len(text) + 1) + text
    body += b"\0"
    with socket.create_connection((host.strip("[]"), int(port)), timeout_s) as connection:
        connection.settimeout(timeout_s)
        connection.sendall(struct.pack(">i", len(body)) + body)
        with connection.makefile("rb") as answer:
            (size,) = struct.unpack(">i", answer.read(4))
            level = _metadata_level(_Reader(answer.read(size)))
    return next((release for first, release in RELEASES if level >= first), "unknown")


def _varint(number: int) -> bytes:
    assert 0 <= number < 128
    return bytes((number,))


class _Reader:
    """The fields of an answer, one after another."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big", signed=True)

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def skip_tags(self) -> None:
        for _ in range(self.varint()):
            self.varint()
            self.take(self.varint())


def _metadata_level(answer: _Reader) -> int:
    """The finalized level of metadata.version; 0 where there is none."""
    answer.number(4)
    if answer.number(2) != 0:
        return 0
    for _ in range(answer.varint() - 1):
        answer.take(6)
        answer.skip_tags()
    answer.number(4)
    for _ in range(answer.varint()):
        tag, size = answer.varint(), answer.varint()
        value = _Reader(answer.take(size))
        if tag == FINALIZED:
            return _finalized(value)
    return 0


def _finalized(features: _Reader) -> int:
    for _ in range(features.varint() - 1):
        name = features.take(features.varint() - 1)
        highest = features.number(2)
        features.number(2)
        features.skip_tags()
        if name == b"metadata.version":
            return highest
    return 0
