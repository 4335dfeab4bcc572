"""Class 5 where other servers connect: handshakes that never end, and very many connections."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
import uvloop
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock as FakeReactor

from homeserver.clock import Clock
from homeserver.transport.endpoint import Response
from homeserver.transport.http_server import HttpServer
from homeserver.transport.tls_listener import HandshakeLimits

_SECONDS = 20
_MAX = 3
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OTHER = "127.0.0.2"


class Listener:
    """A TLS server in a loop and thread of its own."""

    def __init__(self, limits: HandshakeLimits, *, dual: bool = False) -> None:
        """`dual`: it takes IPv4 by a socket of IPv6."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority = trustme.CA()
        self._authority.issue_cert("127.0.0.1").configure_cert(context)
        family = socket.AF_INET6 if dual else socket.AF_INET
        self._listening = socket.create_server(
            ("::" if dual else "127.0.0.1", 0), family=family, dualstack_ipv6=dual
        )
        self.port: int = self._listening.getsockname()[1]
        self._loop = uvloop.new_event_loop()
        self._server = HttpServer(
            lambda _request: succeed(Response(b"{}", "application/json")),
            Clock(FakeReactor()),
            max_body_bytes=1000,
            timeout_seconds=60,
            max_secure_of_network=_MAX,
            handshake_limits=limits,
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

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), _SECONDS, (source, 0))

    def connect_tls(self, source: str = "127.0.0.1") -> ssl.SSLSocket:
        context = ssl.create_default_context()
        self._authority.configure_trust(context)
        return context.wrap_socket(self.connect(source), server_hostname="127.0.0.1")

    def is_served(self, source: str) -> bool:
        """Connect and ask."""
        try:
            with self.connect_tls(source) as connection:
                return is_served(connection)
        except OSError:
            return False

    def stop_server(self) -> None:
        self._loop.call_soon_threadsafe(self._server.close)

    def close(self) -> None:
        self.stop_server()
        self._loop.call_soon_threadsafe(self._loop.call_later, 0.1, self._loop.stop)
        self._thread.join(_SECONDS)


MakeListener = Callable[..., Listener]


@pytest.fixture
def make_listener() -> Iterator[MakeListener]:
    with contextlib.ExitStack() as stack:

        def make(*, dual: bool = False, seconds: float = _SECONDS, **limits: int) -> Listener:
            listener = Listener(HandshakeLimits(seconds=seconds, **limits), dual=dual)
            return stack.enter_context(contextlib.closing(listener))

        yield make


def is_served(connection: ssl.SSLSocket) -> bool:
    """Ask; whoever is not served finds the connection closed."""
    try:
        connection.sendall(GET)
        return connection.recv(1000).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def is_cut_off(connection: socket.socket) -> bool:
    """Wait for the end; what is still open when that is not in time is not."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        connection.recv(1)
    except BlockingIOError:
        return True
    return False


def test_attack_5_a_handshake_that_does_not_end_is_cut_off(make_listener: MakeListener) -> None:
    listener = make_listener(seconds=0.2)
    with listener.connect() as silent, listener.connect() as slow:
        slow.sendall(b"\x16\x03\x01")

        assert is_cut_off(silent)
        assert is_cut_off(slow)
    while not listener.is_served("127.0.0.1"):
        pass  # until one that is honest has been quick enough


def test_attack_5_one_address_has_so_many_connections_and_no_more(
    make_listener: MakeListener,
) -> None:
    listener = make_listener()
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(listener.connect_tls()) for _ in range(_MAX)]
        assert all(is_served(one) for one in first)

        assert not is_served(stack.enter_context(listener.connect_tls()))
        assert is_served(first[0])
        first[1].close()
        while not is_served(stack.enter_context(listener.connect_tls())):
            pass  # until the server has heard of it


@pytest.mark.parametrize("dual", [False, True])
def test_attack_5_one_address_has_so_many_handshakes_under_way(
    make_listener: MakeListener, *, dual: bool
) -> None:
    listener = make_listener(at_once_of_network=2, dual=dual)
    with listener.connect() as first, listener.connect() as second:
        with listener.connect() as third:
            assert is_cut_off(third)
        assert listener.is_served(OTHER)
        assert not listener.is_served("127.0.0.1")
        assert is_open(first)

        second.close()
        while not listener.is_served("127.0.0.1"):
            pass  # until the server has heard of it


def test_attack_5_when_handshakes_are_too_many_the_longest_ends(
    make_listener: MakeListener,
) -> None:
    listener = make_listener(at_once=2)
    with listener.connect() as oldest, listener.connect() as newer:
        assert listener.is_served(OTHER)

        assert is_cut_off(oldest)
        assert is_open(newer)


def test_attack_5_a_handshake_that_has_ended_does_not_count(make_listener: MakeListener) -> None:
    listener = make_listener(at_once=1, at_once_of_network=1)
    with listener.connect_tls() as first, listener.connect_tls() as second:
        assert is_served(first)
        assert is_served(second)


def test_handshakes_under_way_end_with_the_server(make_listener: MakeListener) -> None:
    listener = make_listener(seconds=3 * _SECONDS)
    with listener.connect() as begun:
        listener.is_served(OTHER)  # it has been accepted by then

        listener.stop_server()

        assert is_cut_off(begun)


_PROGRAM = """
import asyncio, resource, socket, ssl, sys
from homeserver.transport.tls_listener import HandshakeLimits, TLSListener

async def serve():
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(sys.argv[1])
    listening = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.get_running_loop()
    TLSListener(loop, listening, tls, asyncio.Protocol, HandshakeLimits()).open()
    resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
    print(listening.getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)

asyncio.run(serve())
"""


def test_attack_5_connections_are_accepted_again_once_there_are_open_files(
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    certificate = tmp_path / "certificate.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(certificate)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process, contextlib.ExitStack() as stack:
        assert process.stdout is not None
        assert process.stderr is not None
        address = ("127.0.0.1", int(process.stdout.readline()))
        for _ in range(40):
            stack.enter_context(socket.create_connection(address, _SECONDS))
        assert "No connection can be accepted" in process.stderr.readline()

        stack.close()  # and so does the server

        with socket.create_connection(address, _SECONDS) as last:
            context.wrap_socket(last, server_hostname="127.0.0.1").close()
        process.communicate("")
