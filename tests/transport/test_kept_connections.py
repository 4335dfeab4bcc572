"""Kept connections that the other side has closed: no request may fail because of them."""

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock as FakeReactor

from homeserver.transport.address_filter import AddressFilter
from homeserver.transport.connections import Connections
from homeserver.transport.outbound import Answer, Cause, OutboundHttp, RequestFailed
from tests.transport.sockets import OK, read_head, result, serving, turn_until

Close = Callable[[socket.socket], None]
_KEPT_SECONDS = 60


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["http", "https"])
def tls(request: pytest.FixtureRequest, authority: trustme.CA) -> ssl.SSLContext | None:
    if request.param == "http":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


class Client:
    """Requests to a port of this machine; time goes on only as a test says."""

    def __init__(self, ca_file: Path) -> None:
        self.time = FakeReactor()
        connections = Connections(_reactor, AddressFilter(["127.0.0.1/32"]), str(ca_file))
        self._http = OutboundHttp(self.time, connections)

    async def ask(self, method: str, port: int, tls: ssl.SSLContext | None) -> Answer:
        url = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}/"
        if method == "GET":
            return await self._http.get(url, timeout_seconds=10, max_bytes=1000)
        return await self._http.request(method, url, token="x", body=b"{}", timeout_seconds=10)


@pytest.fixture
def client(authority: trustme.CA, tmp_path: Path) -> Client:
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    return Client(ca_file)


def end(connection: socket.socket) -> None:
    """Close, with what was sent unread perhaps: the client hears of it when it sends."""
    connection.shutdown(socket.SHUT_RDWR)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def is_every_connection_lost() -> bool:
    reactor: Any = _reactor
    return not any(hasattr(reader, "connector") for reader in reactor.getReaders())


def test_a_kept_connection_that_was_closed_does_not_fail_the_request_after_its_time(
    client: Client, tls: ssl.SSLContext | None
) -> None:
    """It had left the pool by half: "Tried to cancel an already-called event"."""

    def answer_once(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(OK)
        end(connection)

    with serving(answer_once, tls=tls) as server:
        assert result(client.ask("GET", server.port, tls)).body == b"{}"
        turn_until(is_every_connection_lost)
        client.time.advance(_KEPT_SECONDS)

        assert result(client.ask("GET", server.port, tls)).body == b"{}"


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("close", [end, reset])
def test_a_request_on_kept_connections_that_are_just_being_closed_is_made_on_a_new_one(
    client: Client, tls: ssl.SSLContext | None, method: str, close: Close
) -> None:
    """All of the first two connections end with their second request, the others go on."""
    taken: list[int] = []

    def serve(connection: socket.socket) -> None:
        taken.append(len(taken))
        is_one_of_the_first = taken[-1] < 2
        while read_head(connection):
            connection.sendall(OK)
            if is_one_of_the_first:
                read_head(connection)
                close(connection)
                return

    with serving(serve, tls=tls) as server:
        both = [Deferred.fromCoroutine(client.ask(method, server.port, tls)) for _ in range(2)]

        async def wait() -> None:
            await gatherResults(both)

        result(wait())
        assert server.connections == 2

        assert result(client.ask(method, server.port, tls)).body == b"{}"
        assert server.connections == 3


def test_a_request_on_a_new_connection_is_not_repeated(
    client: Client, tls: ssl.SSLContext | None
) -> None:
    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            read_head(connection)
        end(connection)

    with serving(serve, tls=tls) as server:
        with pytest.raises(RequestFailed) as failed:
            result(client.ask("PUT", server.port, tls))

        assert server.connections == 1
    assert failed.value.cause is Cause.CONNECT


def test_a_connection_is_kept_for_a_while_and_then_closed(
    client: Client, tls: ssl.SSLContext | None
) -> None:
    def serve(connection: socket.socket) -> None:
        while read_head(connection):
            connection.sendall(OK)

    with serving(serve, tls=tls) as server:
        for _ in range(3):
            result(client.ask("PUT", server.port, tls))
        assert server.connections == 1

        client.time.advance(_KEPT_SECONDS)
        turn_until(server.ended.is_set)
        result(client.ask("PUT", server.port, tls))

        assert server.connections == 2
