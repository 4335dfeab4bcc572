"""The client's end of an HTTP connection in memory, to the real parser and without sockets."""

import asyncio

from twisted.web.http_headers import Headers

from homeserver.transport.http_server import HttpConnection, HttpServer


class Wire(asyncio.Transport):
    """Bytes in, bytes out."""

    def __init__(self, server: HttpServer, **extra: object) -> None:
        """`extra`: what the event loop knows of the connection besides."""
        super().__init__({"peername": ("127.0.0.1", 1), **extra})
        self.received = bytearray()
        self.is_closed = False
        self.reads_on = True
        self.unsent_bytes = 0
        """What the server may believe that the client has not read."""
        self.connection = HttpConnection(server)
        self.connection.connection_made(self)

    def send(self, data: bytes) -> bytes:
        """Return everything answered so far."""
        self.connection.data_received(data)
        return bytes(self.received)

    def disconnect(self) -> None:
        self.is_closed = True
        self.connection.connection_lost(None)

    # --- what the server calls

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        self.received += data

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.disconnect()

    def pause_reading(self) -> None:
        self.reads_on = False

    def resume_reading(self) -> None:
        self.reads_on = True

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes


def parse_answer(
    received: bytes, *, has_body: bool = True
) -> tuple[int, Headers, bytes, bytes] | None:
    """Return (status, headers, body, the rest), or None while the answer is not complete."""
    head, found, rest = received.partition(b"\r\n\r\n")
    if not found:
        return None
    status_line, *lines = head.split(b"\r\n")
    headers = Headers()
    for line in lines:
        name, _, value = line.partition(b": ")
        headers.addRawHeader(name, value)
    length = int((headers.getRawHeaders(b"content-length") or [b"0"])[0]) if has_body else 0
    if len(rest) < length:
        return None
    return int(status_line.split(b" ")[1]), headers, rest[:length], rest[length:]
