"""A client's WebSocket, once the handshake is over: what is sent to it is written many frames at a time."""

import contextlib
import time

from aiohttp import web

from simulator.contract import Disconnect, Frame, Session
from simulator.faultlog import Fault

WRITE_BUFFER_BYTES = 1 << 20
TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A


def header(opcode: int, length: int) -> bytes:
    """The header of an unmasked, unfragmented WebSocket frame (RFC 6455, 5.2)."""
    if length < 126:
        return bytes((opcode, length))
    if length < 65536:
        return bytes((opcode, 126)) + length.to_bytes(2, "big")
    return bytes((opcode, 127)) + length.to_bytes(8, "big")


class Connection:
    """One client: frames are gathered here and written together.

    `held`: nothing is written for now. `heard`: the streams it is subscribed to, `muted`: those of them whose frames it
    does not get. `notice_seconds`: so long before its end that is announced.
    """

    def __init__(self, session: Session, request: web.Request, notice_seconds: float = 0.0) -> None:
        assert request.transport is not None
        self.session = session
        self.lost = False
        self.held = False
        self.heard: set[str] = set()
        self.muted: dict[str, Fault] = {}
        self.opened = time.monotonic()
        self.notice_seconds = notice_seconds
        self.announced = False
        self._transport = request.transport
        self._writer = request.writer
        self._queue: list[bytes] = []
        # WebSocketResponse would make one system call per frame; what it needs to know of a frame is only its order.
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def add(self, frame: Frame) -> None:
        self.queue(BINARY if frame.binary else TEXT, self.session.encode(frame))

    def queue(self, opcode: int, message: bytes) -> None:
        self._queue += (header(opcode, len(message)), message)

    def write(self) -> None:
        """Send all that was added."""
        if self.held:
            return
        if self._queue and not self.ended:
            self._transport.write(b"".join(self._queue))
        self._queue.clear()

    @property
    def ended(self) -> bool:
        return self.lost or self._transport.is_closing()

    @property
    def unread_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    async def drain(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def cut(self) -> None:
        """End it without a close frame. All that was written still arrives: FIN goes out after it, and reading goes on,
        because closing a socket with unread input would send RST and take data away from the client."""
        self.write()
        self.lost = True
        if not self._transport.is_closing():
            with contextlib.suppress(OSError):  # the client was quicker
                self._transport.write_eof()

    def close(self, end: Disconnect) -> None:
        """Say why with a close frame, and wait for nothing."""
        self.queue(CLOSE, end.code.to_bytes(2, "big") + end.reason.encode())
        self.cut()

    def abort(self) -> None:
        self.lost = True
        self._transport.abort()
