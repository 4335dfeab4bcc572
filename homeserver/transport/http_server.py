"""HTTP connections: from the event loop's bytes to requests, and answers back.

Written on asyncio's protocols and not on `twisted.web`, whose own work for a request costs several
times ours. Invariants: a connection answers one request at a time, in order; a client that hangs
up ends the reading request it waits for; whoever sends or reads too slowly is cut off; bodies of
requests take a bounded sum of memory, and so do answers that are not read; files are sent as fast
as they are taken.
"""

import asyncio
import email.utils
import logging
import re
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, cast

import orjson
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from homeserver.clock import Clock, cancel_call
from homeserver.transport.client_networks import network_of
from homeserver.transport.endpoint import FileBody, Response
from homeserver.transport.http_parser import HttpRequest, RequestParser, RequestRefused
from homeserver.transport.tls_listener import HANDSHAKE_LIMITS, HandshakeLimits, TLSListener

logger = logging.getLogger(__name__)

_BACKLOG = 1024
_SWEEPS_PER_TIMEOUT = 8
_MIN_SWEEP_SECONDS = 0.5
_MAX_HELD_BYTES = 256 * 1024 * 1024
_LARGE_SHARE = 0.75
"""Of it, for bodies above the usual limit: uploads leave room for everything else."""
_MAX_SECURE_OF_NETWORK = 1_000
"""Connections over TLS, which end here and not at a proxy. Many servers may share one address."""
_MAX_UNSENT_BYTES = 512 * 1024 * 1024
_MUCH_BYTES = 1024 * 1024
"""Smaller answers do not count: there are as many as connections."""
_CHUNK_BYTES = 64 * 1024
_TURN_BYTES = 4 * _CHUNK_BYTES
"""Read of a file before others have their turn."""
_CORS = (
    b"Access-Control-Allow-Origin: *\r\n"
    b"Access-Control-Allow-Methods: GET, POST, PUT, DELETE, PATCH, OPTIONS\r\n"
    b"Access-Control-Allow-Headers: X-Requested-With, Content-Type, Authorization\r\n"
)
_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n%s" % (status.value, status.phrase.encode(), _CORS)
    for status in HTTPStatus
}
_NO_BODY = (204, 304)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Answer = Callable[[HttpRequest], Deferred[Response]]
"""Never fails but by being cancelled."""


class HttpServer:
    """All connections of one listening socket or several."""

    def __init__(
        self,
        answer: Answer,
        clock: Clock,
        *,
        max_body_bytes: int,
        timeout_seconds: float,
        larger_bodies: Mapping[bytes, int] = MappingProxyType({}),
        max_held_bytes: int = _MAX_HELD_BYTES,
        max_unsent_bytes: int = _MAX_UNSENT_BYTES,
        max_secure_of_network: int = _MAX_SECURE_OF_NETWORK,
        handshake_limits: HandshakeLimits = HANDSHAKE_LIMITS,
    ) -> None:
        """Construct without listening.

        timeout_seconds  how long a client may be idle, or take to send or read something
        larger_bodies    limits of bodies that differ, by the beginning of the path
        max_held_bytes   what bodies of requests that are not answered may take together
        max_unsent_bytes  what answers that are not read yet may take together
        """
        self.answer = answer
        self._max_held_bytes = max_held_bytes
        self.clock = clock
        self.max_body_bytes = max_body_bytes
        self.larger_bodies = larger_bodies
        self.timeout_seconds = timeout_seconds
        self.held_bytes = 0
        self._max_unsent_bytes = max_unsent_bytes
        self._much_unsent: dict[HttpConnection, None] = {}
        """Who was sent a large answer and may not have read it, in that order."""
        self._max_secure_of_network = max_secure_of_network
        self._handshake_limits = handshake_limits
        self._secure_of_network: Counter[str] = Counter()
        self._connections: set[HttpConnection] = set()
        self._listening: list[asyncio.Server | TLSListener] = []
        self._sweep_timer = clock.call_later(self._sweep_seconds, self._sweep)
        self._date_at = 0
        self._date = b""

    @property
    def _sweep_seconds(self) -> float:
        return max(_MIN_SWEEP_SECONDS, self.timeout_seconds / _SWEEPS_PER_TIMEOUT)

    async def listen(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        def make_connection() -> HttpConnection:
            return HttpConnection(self)

        if tls is not None:
            secure = TLSListener(loop, listening, tls, make_connection, self._handshake_limits)
            secure.open()
            self._listening.append(secure)
            return
        opening = loop.create_server(make_connection, sock=listening, backlog=_BACKLOG)
        self._listening.append(await Deferred.fromFuture(asyncio.ensure_future(opening, loop=loop)))

    def stop_listening(self) -> None:
        while self._listening:
            self._listening.pop().close()

    def close(self) -> None:
        """Close every connection, answered or not."""
        self.stop_listening()
        cancel_call(self._sweep_timer)
        for connection in tuple(self._connections):
            connection.close()

    def opened(self, connection: "HttpConnection") -> None:
        self._connections.add(connection)
        network = connection.secure_network
        if network is not None:
            self._secure_of_network[network] += 1
            if self._secure_of_network[network] > self._max_secure_of_network:
                connection.abort()

    def closed(self, connection: "HttpConnection") -> None:
        self._connections.discard(connection)
        self._much_unsent.pop(connection, None)
        network = connection.secure_network
        if network is not None:
            self._secure_of_network[network] -= 1
            if not self._secure_of_network[network]:
                del self._secure_of_network[network]

    def hold(self, more_bytes: int, *, is_large: bool) -> None:
        """Count what requests take. Raises RequestRefused when it is too much."""
        self.held_bytes += more_bytes
        allowed = self._max_held_bytes * (_LARGE_SHARE if is_large else 1)
        if more_bytes > 0 and self.held_bytes > allowed:
            raise RequestRefused(503, "The server is too busy for a body of this size")

    def sent_much(self, connection: "HttpConnection") -> None:
        """Cut off those that have not read theirs, the oldest first, when it is too much."""
        self._much_unsent.pop(connection, None)
        self._much_unsent[connection] = None
        unsent = {one: one.unsent_bytes for one in self._much_unsent}
        total = sum(unsent.values())
        for one, size in unsent.items():
            if size <= _MUCH_BYTES:
                del self._much_unsent[one]
            elif total > self._max_unsent_bytes and one is not connection:
                logger.warning("An answer was not read in time bytes=%d", size)
                total -= size
                one.abort()

    def date_line(self) -> bytes:
        now = self.clock.now_ms() // 1000
        if now != self._date_at:
            self._date_at = now
            self._date = b"Date: %s\r\n" % email.utils.formatdate(now, usegmt=True).encode()
        return self._date

    def _sweep(self) -> None:
        self._sweep_timer = self.clock.call_later(self._sweep_seconds, self._sweep)
        now = self.clock.monotonic()
        for connection in tuple(self._connections):
            connection.check_pace(now)


class HttpConnection(asyncio.Protocol):
    __slots__ = (
        "_deadline",
        "_held",
        "_is_closing",
        "_is_going_on",
        "_is_reading_paused",
        "_is_writing_paused",
        "_parser",
        "_refusal",
        "_request",
        "_running",
        "_sending",
        "_server",
        "_transport",
        "_unread",
        "_unsent",
        "secure_network",
    )

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self.secure_network: str | None = None
        """Of the other side's address, over TLS."""
        self._transport: asyncio.Transport
        self._parser: RequestParser
        self._request: HttpRequest | None = None
        self._running: Deferred[None] | None = None
        self._deadline: float | None = None
        """None while a request is answered."""
        self._sending: FileBody | None = None
        self._unread = 0
        """Bytes of the file that are still to be sent."""
        self._unsent = 0
        self._held = 0
        self._refusal: RequestRefused | None = None
        """Told after the requests before it are answered."""
        self._is_closing = False
        self._is_going_on = False
        self._is_reading_paused = False
        self._is_writing_paused = False

    # --- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer: Any = transport.get_extra_info("peername")
        # A socket for both takes IPv4 as IPv6 that begins so.
        address = str(peer[0]).removeprefix("::ffff:") if isinstance(peer, tuple) else "unknown"
        is_secure = transport.get_extra_info("sslcontext") is not None
        self.secure_network = network_of(address) if is_secure else None
        self._parser = RequestParser(
            self._server.max_body_bytes,
            address,
            is_secure=is_secure,
            larger_bodies=self._server.larger_bodies,
        )
        self._server.opened(self)
        self._expect_something()

    def data_received(self, data: bytes) -> None:
        if self._is_closing or self._refusal is not None:
            return
        try:
            self._parser.receive(data)
            self._count_held()
        except RequestRefused as refusal:
            self._refusal = refusal
        if self._request is None:
            self._go_on()
        elif self._parser.ready and not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        if self._sending is not None:
            self._send_more()
        else:
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._is_closing = True
        self._server.closed(self)
        self._server.held_bytes -= self._held
        self._held = 0
        self._stop_sending()
        running, self._running = self._running, None
        # Only what reads is cut short when the client hangs up; what was begun is finished.
        if running is not None and self._request is not None and self._request.method == "GET":
            running.cancel()

    # --- requests and answers

    def _go_on(self) -> None:
        """Take one request after the other, as long as they are answered at once."""
        if self._is_going_on:
            return
        self._is_going_on = True
        ready = self._parser.ready
        while ready and self._request is None and not (self._is_closing or self._is_writing_paused):
            self._begin(ready.popleft())
        self._is_going_on = False
        if self._request is None and not ready and not self._is_closing:
            self._want_more()

    def _begin(self, request: HttpRequest) -> None:
        self._request = request
        self._deadline = None
        running = self._server.answer(request).addCallbacks(self._answered, self._failed)
        if not running.called:
            self._running = running

    def _want_more(self) -> None:
        if self._refusal is not None:
            self._refuse(self._refusal)
            return
        if self._parser.wants_continue:
            self._parser.wants_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._parser.is_in_body:
            self._expect_something()  # a body may take its time as long as it comes
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()

    def _count_held(self) -> None:
        held = self._parser.held_bytes + (0 if self._request is None else len(self._request.body))
        if held != self._held:
            more, self._held = held - self._held, held
            self._server.hold(more, is_large=held > self._server.max_body_bytes)

    def _answered(self, response: Response) -> None:
        request = self._request
        self._running = None
        self._sending = response.file
        if self._is_closing or request is None:
            self._stop_sending()
            return
        self._write(request.method, response, keeps=request.keeps_connection)
        if response.file is None:
            self._finish(request)
        elif request.method == "HEAD":
            self._stop_sending()
            self._finish(request)
        else:
            self._unread = response.file.size
            self._send_more()

    def _send_more(self) -> None:
        """Send of the file what the client takes now; called again when it has taken that."""
        budget = _TURN_BYTES
        while (sending := self._sending) is not None and not self._is_closing:
            self._expect_something()
            if self._is_writing_paused:
                return
            if not budget:
                self._server.clock.call_later(0, self._send_more)
                return
            chunk = sending.file.read(min(_CHUNK_BYTES, self._unread))
            self._unread -= len(chunk)
            budget -= _CHUNK_BYTES
            if chunk:
                self._transport.write(chunk)
            if self._unread and not chunk:
                logger.error("A file is shorter than was said bytes_missing=%d", self._unread)
                self._transport.abort()
                return
            if not self._unread:
                self._stop_sending()
                self._transport.write(sending.after)
                if self._request is not None:
                    self._finish(self._request)

    def _stop_sending(self) -> None:
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.file.close()

    def _finish(self, request: HttpRequest) -> None:
        """Go on after a request that is answered to its end."""
        self._request = None
        self._count_held()
        if request.keeps_connection:
            self._expect_something()
            self._go_on()
        else:
            self.close()

    def _failed(self, failure: Failure) -> None:
        self._running = None
        if failure.check(CancelledError) is None:
            logger.error("No answer was made", exc_info=failure.value)
        if not self._is_closing:
            self.close()

    def _write(self, method: str, response: Response, *, keeps: bool) -> None:
        lines = [
            _STATUS_LINES.get(response.status) or b"HTTP/1.1 %d -\r\n" % response.status + _CORS,
            self._server.date_line(),
            *(_header_line(name, value) for name, value in response.headers.items()),
        ]
        if not keeps:
            lines.append(b"Connection: close\r\n")
        if response.status in _NO_BODY:
            lines.append(b"\r\n")
        else:
            lines.append(_header_line("Content-Type", response.content_type))
            lines.append(b"Content-Length: %d\r\n\r\n" % response.length)
            if method != "HEAD":
                lines.append(response.body)
        self._transport.write(b"".join(lines))
        if len(response.body) > _MUCH_BYTES:
            self._server.sent_much(self)

    def _refuse(self, refusal: RequestRefused) -> None:
        body = orjson.dumps({"errcode": refusal.errcode, "error": refusal.message})
        self._write("", Response(body, "application/json", refusal.status), keeps=False)
        self.close()

    def close(self) -> None:
        """Send what is written and close."""
        self._is_closing = True
        self._expect_something()
        self._transport.close()

    @property
    def unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    def abort(self) -> None:
        self._transport.abort()

    # --- time

    def _expect_something(self) -> None:
        self._deadline = self._server.clock.monotonic() + self._server.timeout_seconds

    def check_pace(self, now: float) -> None:
        """Cut the connection off when its client has not done its part in time."""
        if self._deadline is None or now < self._deadline:
            return
        unsent = self._transport.get_write_buffer_size()
        if 0 < unsent != self._unsent:  # it reads, if slowly
            self._unsent = unsent
            self._expect_something()
            return
        self._transport.abort()


def _header_line(name: str, value: str) -> bytes:
    """What would end the header early becomes a space."""
    return _CONTROL.sub(" ", f"{name}: {value}").encode() + b"\r\n"
