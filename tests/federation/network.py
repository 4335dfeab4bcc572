"""A network in memory: requests between servers, signed and parsed as on the wire.

Everything but sockets, TLS and discovery is the real thing. Links can be cut, and a server can be
replaced by one that answers as a test tells it.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.task import Clock as FakeReactor

from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from homeserver.core.request_signing import make_authorization
from homeserver.transport.federation_client import (
    MAX_ANSWER_BYTES,
    FederationClient,
    check_answer,
)
from homeserver.transport.outbound import Answer, Cause, RequestFailed
from tests import wire
from tests.homeserver import Homeserver, key_of

_MAX_ROUNDS = 2_000
Hostile = Callable[[str, str, Any], Answer]
"""From method, path with query and body to what a server of a test's own answers."""
Alter = Callable[[JsonObject], JsonObject]
"""From what a server answers to what arrives; RequestFailed if that is nothing."""


class MemoryNetwork:
    def __init__(self) -> None:
        self.servers: dict[ServerName, Homeserver] = {}
        self.hostile: dict[ServerName, Hostile] = {}
        self.cut: set[frozenset[ServerName]] = set()
        """Pairs of servers that cannot reach each other."""
        self.silent: set[ServerName] = set()
        """Servers that take a request and never answer."""
        self.requests: list[tuple[ServerName, ServerName, str, str]] = []
        """From whom to whom, method and path with query, in order."""
        self.elsewhere: dict[str, Answer] = {}
        """What is at URLs that belong to no server."""
        self.altered: dict[tuple[ServerName, str], Alter] = {}
        """By server and a part of the path."""
        self.held: dict[tuple[ServerName, str], list[Deferred[None]]] = {}
        """Requests by server and a part of the path that wait to be let through."""

    def client_of(self, name: ServerName, reactor: FakeReactor) -> FederationClient:
        return _Client(self, name, reactor)

    def add(self, homeserver: Homeserver) -> Homeserver:
        self.servers[homeserver.name] = homeserver
        return homeserver

    def cut_off(self, name: ServerName) -> None:
        """No other server reaches this one, nor it them."""
        self.cut |= {frozenset({name, other}) for other in self.servers if other != name}

    def heal(self) -> None:
        self.cut.clear()

    def lose(self, server: str, part: str) -> None:
        """Let answers of a server get lost on their way."""

        def lost(_: JsonObject) -> JsonObject:
            raise RequestFailed("the answer is lost", Cause.CONNECT)

        self.altered[ServerName(server), part] = lost

    def hold(self, server: str, part: str) -> None:
        self.held[ServerName(server), part] = []

    def let_through(self, server: str, part: str) -> None:
        for waiting in self.held.pop((ServerName(server), part)):
            if not waiting.called:
                waiting.callback(None)

    def settle(self) -> None:
        """Let everything happen, on each server, that waits for nothing but its turn."""
        for _ in range(_MAX_ROUNDS):
            busy = False
            for server in list(self.servers.values()):
                calls = server.reactor.calls
                if calls and calls[0].getTime() <= server.reactor.seconds():
                    busy = True
                    server.reactor.advance(0)
            if not busy:
                return
        raise AssertionError("the servers do not come to rest")

    def advance(self, seconds: float) -> None:
        """Move every clock."""
        for server in list(self.servers.values()):
            server.reactor.advance(seconds)
        self.settle()


class _Client:
    def __init__(self, network: MemoryNetwork, name: ServerName, reactor: FakeReactor) -> None:
        self._network = network
        self._name = name
        self._reactor = reactor

    async def _ask(
        self,
        method: str,
        server: ServerName,
        path: str,
        *,
        query: Mapping[str, str | list[str]] | None = None,
        content: JsonObject | bytes | None = None,
        timeout_seconds: float | None = None,
        max_bytes: int = MAX_ANSWER_BYTES,
        signed: bool = True,
    ) -> Answer:
        target = path + ("?" + urlencode(query, doseq=True) if query else "")
        body = encode_canonical_json(content) if isinstance(content, dict) else content
        self._network.requests.append((self._name, server, method, target))
        for (held, part), waiting in self._network.held.items():
            if held == server and part in target:
                turn: Deferred[None] = Deferred()
                turn.addTimeout(timeout_seconds or 60.0, self._reactor)
                waiting.append(turn)
                try:
                    await turn
                except TimedOut as error:
                    raise RequestFailed("no answer in time", Cause.TIMEOUT) from error
                break
        if frozenset({self._name, server}) in self._network.cut:
            raise RequestFailed("the link is cut", Cause.CONNECT)
        if server in self._network.silent:
            await Deferred()
        hostile = self._network.hostile.get(server)
        if hostile is not None:
            answer = hostile(method, target, json.loads(body) if body else None)
        else:
            found = self._network.servers.get(server)
            if found is None:
                raise RequestFailed(f"there is no server {server}", Cause.DNS)
            headers = {"Host": server, "Content-Type": "application/json"}
            if signed:
                headers["Authorization"] = make_authorization(
                    key_of(self._name),
                    method=method,
                    uri=target,
                    origin=self._name,
                    destination=server,
                    content=body,
                )
            exchange = _Exchange(found)
            exchange.send(_written(method, target, headers, body or b""))
            exchange.answer.addTimeout(timeout_seconds or 60.0, self._reactor)
            try:
                answer = await exchange.answer
            except TimedOut as error:
                raise RequestFailed("no answer in time", Cause.TIMEOUT) from error
        if len(answer.body) > max_bytes:
            raise RequestFailed("the answer is too large", Cause.TOO_LARGE)
        check_answer(answer)
        for (altered, part), alter in self._network.altered.items():
            if altered == server and part in target:
                body = json.dumps(alter(json.loads(answer.body))).encode()
                return Answer(answer.status, body, answer.headers)
        return answer

    async def request(self, method: str, server: ServerName, path: str, **options: Any) -> bytes:
        return (await self._ask(method, server, path, **options)).body

    async def fetch(self, server: ServerName, path: str, **options: Any) -> Answer:
        return await self._ask("GET", server, path, **options)

    async def fetch_url(self, url: str, *, timeout_seconds: float, max_bytes: int) -> Answer:
        assert timeout_seconds > 0
        answer = self._network.elsewhere.get(url)
        if answer is None:
            raise RequestFailed(f"nothing is at {url}", Cause.CONNECT)
        if len(answer.body) > max_bytes:
            raise RequestFailed("the answer is too large", Cause.TOO_LARGE)
        check_answer(answer)
        return answer


class _Exchange(wire.Wire):
    def __init__(self, homeserver: Homeserver) -> None:
        self.answer: Deferred[Answer] = Deferred(lambda _: self.disconnect())
        super().__init__(homeserver.http_server)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(data)
        found = wire.parse_answer(bytes(self.received))
        if found is not None and not self.answer.called:
            headers = {
                name.decode("latin-1").lower(): values[0].decode("latin-1")
                for name, values in found[1].getAllRawHeaders()
            }
            self.answer.callback(Answer(found[0], found[2], headers))


def _written(method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{n}: {v}" for n, v in headers.items())]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body
