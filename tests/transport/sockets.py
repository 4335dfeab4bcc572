"""Real sockets on loopback: hostile servers in threads, and a reactor that a test turns by hand."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock as FakeReactor
from twisted.python.failure import Failure

from homeserver.transport.name_lookups import NameLookups, look_up_by

T = TypeVar("T")
Serve = Callable[[socket.socket], None]
_SECONDS = 20
_TURN = 0.01
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Names:
    """Names of a test's own. What it does not know, it looks up."""

    def __init__(self) -> None:
        self.known: dict[str, list[list[str]]] = {}
        """The answers to the look-ups of each name, in order; the last stays."""
        self.asked: list[str] = []
        self.time = FakeReactor()
        """For how long answers are kept."""
        self.lookups = NameLookups(self.time, self._find)
        self._look_up = look_up_by(_reactor)

    def _find(self, host: str) -> Deferred[list[str]]:
        self.asked.append(host)
        if host not in self.known:
            return self._look_up(host)
        answers = self.known[host]
        return succeed(answers.pop(0) if len(answers) > 1 else answers[0])


def result(coroutine: Any) -> Any:
    """Turn the reactor until it is there. Raises what it raises, and as `turn_until`."""
    reactor: Any = _reactor
    if not reactor.running:
        reactor.startRunning(installSignalHandlers=False)
    found: list[Any] = []
    deferred: Deferred[Any] = Deferred.fromCoroutine(coroutine)
    deferred.addBoth(found.append)
    turn_until(lambda: bool(found))
    if isinstance(found[0], Failure):
        found[0].raiseException()
    return found[0]


def turn_until(is_so: Callable[[], bool]) -> None:
    """Turn the reactor. Raises AssertionError after a while."""
    reactor: Any = _reactor
    until = reactor.seconds() + _SECONDS
    while not is_so():
        assert reactor.seconds() < until, "not in time"
        reactor.iterate(_TURN)


class LoopbackServer:
    """Serves each connection by a function, in a thread of its own."""

    def __init__(
        self, serve: Serve, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self._serve = serve
        self._tls = tls
        self._listening = socket.create_server((host, 0))
        self.port: int = self._listening.getsockname()[1]
        self.connections = 0
        self.ended = threading.Event()
        """A connection was served to its end, which may be that the client has cut it."""
        self._taken: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                taken, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self._taken.append(taken)
            self._threads.append(threading.Thread(target=self._run, args=(taken,)))
            self._threads[-1].start()

    def _run(self, taken: socket.socket) -> None:
        taken.settimeout(_SECONDS)
        with contextlib.closing(taken), contextlib.suppress(OSError):
            if self._tls is None:
                self._serve(taken)
            else:
                inside = self._tls.wrap_socket(taken, server_side=True)
                self._taken.append(inside)
                with contextlib.closing(inside):
                    self._serve(inside)
        self.ended.set()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for taken in list(self._taken):  # kept connections
            with contextlib.suppress(OSError):
                taken.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_SECONDS)


@contextlib.contextmanager
def serving(
    serve: Serve, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Iterator[LoopbackServer]:
    server = LoopbackServer(serve, tls=tls, host=host)
    try:
        yield server
    finally:
        server.close()


def read_head(connection: socket.socket) -> bytes:
    """Read a request without its body; b"" at the end."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(65_536)
        if not data:
            return b""
        head += data
    return head


def answering(answer: bytes) -> Serve:
    """Answer the same to every request."""

    def serve(connection: socket.socket) -> None:
        while read_head(connection):
            connection.sendall(answer)

    return serve


def flooding(start: bytes, piece: bytes) -> Serve:
    """Answer without end, until the client cuts the connection."""

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(start)
        while True:
            connection.sendall(piece)

    return serve
