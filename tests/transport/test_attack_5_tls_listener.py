"""Class 5 where other servers connect: handshakes that never end, and very many connections."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
import trustme
import uvloop
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock as FakeReactor

from homeserver.clock import Clock
from homeserver.transport.endpoint import Response
from homeserver.transport.http_server import HttpServer

_SECONDS = 20
_MAX = 3
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Listener:
    """A TLS server in a loop and thread of its own."""

    def __init__(self, authority: trustme.CA) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self._authority = authority
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._loop = uvloop.new_event_loop()
        self._server = HttpServer(
            lambda _request: succeed(Response(b"{}", "application/json")),
            Clock(FakeReactor()),
            max_body_bytes=1000,
            timeout_seconds=60,
            max_secure_of_address=_MAX,
            handshake_seconds=0.2,
        )
        self._context = context
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,))
        self._thread.start()
        assert started.wait(_SECONDS)

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)

        async def listen() -> None:
            opening = self._server.listen(self._loop, self._listening, self._context)
            await Deferred.fromCoroutine(opening).asFuture(self._loop)
            started.set()

        self._loop.run_until_complete(listen())
        self._loop.run_forever()
        self._loop.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), _SECONDS)

    def connect_tls(self) -> ssl.SSLSocket:
        context = ssl.create_default_context()
        self._authority.configure_trust(context)
        return context.wrap_socket(self.connect(), server_hostname="127.0.0.1")

    def close(self) -> None:
        def end() -> None:
            self._server.close()
            self._loop.call_later(0.1, self._loop.stop)

        self._loop.call_soon_threadsafe(end)
        self._thread.join(_SECONDS)


@pytest.fixture
def listener() -> Iterator[Listener]:
    with contextlib.closing(Listener(trustme.CA())) as listener:
        yield listener


def is_served(connection: ssl.SSLSocket) -> bool:
    """Ask; whoever is not served finds the connection closed."""
    try:
        connection.sendall(GET)
        return connection.recv(1000).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def test_attack_5_a_handshake_that_does_not_end_is_cut_off(listener: Listener) -> None:
    with listener.connect() as silent, listener.connect() as slow:
        slow.sendall(b"\x16\x03\x01")

        assert silent.recv(1) == b""
        assert slow.recv(1) == b""
    with listener.connect_tls() as other:
        assert is_served(other)


def test_attack_5_one_address_has_so_many_connections_and_no_more(listener: Listener) -> None:
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(listener.connect_tls()) for _ in range(_MAX)]
        assert all(is_served(one) for one in first)

        assert not is_served(stack.enter_context(listener.connect_tls()))
        assert is_served(first[0])
        first[1].close()
        while not is_served(stack.enter_context(listener.connect_tls())):
            pass  # until the server has heard of it
