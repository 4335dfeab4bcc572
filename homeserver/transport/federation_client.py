"""Signed requests to other servers.

spec: server-server-api/#request-authentication, #resolving-server-names, v1.19. Invariant: a
request is sent only over a connection whose certificate is for the destination.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol, TypedDict, Unpack
from urllib.parse import urlencode

import orjson
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import URI

from homeserver.config import FederationSection
from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.errors import JsonInvalid
from homeserver.core.glob_patterns import GlobText, parse_glob
from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.request_signing import make_authorization
from homeserver.core.server_acl import host_of
from homeserver.core.signing import SigningKey
from homeserver.transport.connections import Connections
from homeserver.transport.outbound import (
    Answer,
    Cause,
    Exchanges,
    OutboundHttp,
    RequestFailed,
)
from homeserver.transport.server_discovery import Destination, ServerDiscovery

MAX_ANSWER_BYTES = 16 * 1_048_576
USER_AGENT = "Countersign"
_MAX_TARGETS = 10_000
_MAX_ERRCODE = 255
_MANY_VALUES = 1_000_000
_BYTES_A_VALUE = 8
"""At least, on average, in an answer of many values; in events it is about 20."""


class ServerRefused(RequestFailed):
    """The configuration does not let the server talk with this one."""


class ErrorAnswer(RequestFailed):
    """The other server answered with an error."""

    def __init__(
        self,
        status: int,
        errcode: str,
        error: str,
        body: JsonObject,
        retry_after_seconds: float | None = None,
    ) -> None:
        """`retry_after_seconds`: how long it wants to be left alone."""
        message = f"{status} {errcode}: {error}"  # goes into the log, where a line is a line
        super().__init__("".join(x if x.isprintable() else " " for x in message))
        self.retry_after_seconds = retry_after_seconds
        self.status = status
        self.errcode = errcode
        self.error = error
        self.body = body


class AllowedServers:
    """Which servers the configuration lets this one talk with, in both directions."""

    def __init__(self, allowed: list[str] | None, denied: list[str]) -> None:
        self._allowed = None if allowed is None else [parse_glob(pattern) for pattern in allowed]
        self._denied = [parse_glob(pattern) for pattern in denied]

    def allows(self, server: ServerName) -> bool:
        names = [GlobText(server), GlobText(host_of(server))]

        def matches(patterns: list[Any]) -> bool:
            return any(pattern.matches_whole(name) for pattern in patterns for name in names)

        return not matches(self._denied) and (self._allowed is None or matches(self._allowed))


def allowed_servers(section: FederationSection) -> AllowedServers:
    """Return which servers the configuration means: none, without federation."""
    allowed = section.allowed_servers if section.enabled else []
    return AllowedServers(allowed, section.denied_servers)


class RequestOptions(TypedDict, total=False):
    """What a request may have besides; `SignedClient.request` says what each means."""

    query: Mapping[str, str | list[str]] | None
    content: JsonObject | bytes | None
    timeout_seconds: float | None
    max_bytes: int
    signed: bool


class FederationClient(Protocol):
    """`SignedClient` in the server; tests connect servers in memory."""

    async def request(
        self, method: str, server: ServerName, path: str, **options: Unpack[RequestOptions]
    ) -> bytes: ...

    async def fetch(
        self,
        server: ServerName,
        path: str,
        *,
        query: Mapping[str, str | list[str]],
        timeout_seconds: float,
        max_bytes: int,
        signed: bool = True,
    ) -> Answer: ...

    async def fetch_url(self, url: str, *, timeout_seconds: float, max_bytes: int) -> Answer: ...


async def request_json(
    client: FederationClient,
    method: str,
    server: ServerName,
    path: str,
    **options: Unpack[RequestOptions],
) -> JsonObject:
    """Return the answer's JSON object. Raises as `SignedClient.request`."""
    return parse_answer(await client.request(method, server, path, **options))


class SignedClient:
    def __init__(
        self,
        reactor: Any,
        connections: Connections,
        discovery: ServerDiscovery,
        allowed: AllowedServers,
        *,
        server_name: ServerName,
        signing_key: SigningKey,
        timeout_seconds: float,
    ) -> None:
        self._connections = connections
        self._discovery = discovery
        self._allowed = allowed
        self._server_name = server_name
        self._signing_key = signing_key
        self._timeout_seconds = timeout_seconds
        self._targets: OrderedDict[str, Destination] = OrderedDict()
        self._exchanges = Exchanges(reactor, self._endpoint_for)
        self._urls = OutboundHttp(reactor, connections)

    async def request(
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
    ) -> bytes:
        """Return the body of a successful answer.

        path     already quoted
        content  bytes must be canonical JSON
        Raises ErrorAnswer, ServerRefused, and RequestFailed when there was no answer.
        """
        answer = await self._ask(
            method,
            server,
            path + ("?" + urlencode(query, doseq=True) if query else ""),
            _body(content),
            timeout_seconds=timeout_seconds or self._timeout_seconds,
            max_bytes=max_bytes,
            signed=signed,
        )
        return answer.body

    async def _ask(
        self,
        method: str,
        server: ServerName,
        uri: str,
        body: bytes | None,
        *,
        timeout_seconds: float,
        max_bytes: int,
        signed: bool,
    ) -> Answer:
        if not self._allowed.allows(server):
            raise ServerRefused("the configuration does not allow this server")
        destination = await self._discovery.find(server)
        headers = {"Host": destination.host_header, "User-Agent": USER_AGENT}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if signed:
            headers["Authorization"] = make_authorization(
                self._signing_key,
                method=method,
                uri=uri,
                origin=self._server_name,
                destination=server,
                content=body,
            )
        try:
            answer = await self._exchanges.perform(
                method,
                self._url(destination) + uri,
                headers,
                body,
                timeout_seconds=timeout_seconds,
                max_bytes=max_bytes,
            )
        except RequestFailed as error:
            if error.cause in (Cause.DNS, Cause.CONNECT, Cause.TLS):
                problem = self._discovery.problem_of(server)
                self._discovery.forget(server)  # it may have moved
                if problem is not None:
                    message = f"{error}; its .well-known is no help: {problem}"
                    raise RequestFailed(message, Cause.WELL_KNOWN) from error
            raise
        check_answer(answer)
        return answer

    async def fetch(
        self,
        server: ServerName,
        path: str,
        *,
        query: Mapping[str, str | list[str]],
        timeout_seconds: float,
        max_bytes: int,
        signed: bool = True,
    ) -> Answer:
        """GET what is not JSON, with its headers. Raises as `request`."""
        return await self._ask(
            "GET",
            server,
            path + ("?" + urlencode(query, doseq=True) if query else ""),
            None,
            timeout_seconds=timeout_seconds,
            max_bytes=max_bytes,
            signed=signed,
        )

    async def fetch_url(self, url: str, *, timeout_seconds: float, max_bytes: int) -> Answer:
        """GET what another server says is elsewhere, unsigned. Raises as `request`."""
        if not url.startswith("https://"):
            raise RequestFailed(f"sent to {url[:200]}, which is not https")
        answer = await self._urls.get(url, timeout_seconds=timeout_seconds, max_bytes=max_bytes)
        check_answer(answer)
        return answer

    def _url(self, destination: Destination) -> str:
        """Return a URL that names the destination, for the pool of kept connections."""
        name = f"{destination.tls_name}|{destination.host_header}".encode().hex()
        self._targets[name] = destination
        self._targets.move_to_end(name)
        while len(self._targets) > _MAX_TARGETS:
            self._targets.popitem(last=False)
        return f"https://{name}"

    def _endpoint_for(self, uri: URI) -> IStreamClientEndpoint:
        destination = self._targets[uri.host.decode("ascii")]
        return self._connections.endpoint(destination.places, destination.tls_name)


def check_answer(answer: Answer) -> None:
    """Raise ErrorAnswer unless it is a success."""
    if 200 <= answer.status < 300:  # noqa: PLR2004 - HTTP
        return
    try:
        body = parse_answer(answer.body)
    except RequestFailed:
        body = {}
    errcode = body.get("errcode")
    error = body.get("error")
    raise ErrorAnswer(
        answer.status,
        errcode[:_MAX_ERRCODE] if isinstance(errcode, str) else "M_UNKNOWN",
        error[:500] if isinstance(error, str) else "no reason given",
        body,
        _retry_after(answer.headers or {}, body),
    )


def _retry_after(headers: Mapping[str, str], body: JsonObject) -> float | None:
    header = headers.get("retry-after", "")
    if header.isascii() and header.isdecimal():
        return float(header[:9])
    asked = body.get("retry_after_ms")
    return asked / 1000 if isinstance(asked, int) and asked > 0 else None


def parse_answer(body: bytes) -> JsonObject:
    """Raises RequestFailed."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise RequestFailed("the answer is not a JSON object")
    return value


def parse_json(body: bytes) -> JsonValue:
    """Read an answer, but not one of very many tiny values, which would take many times its size.

    Raises RequestFailed.
    """
    values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if values > _MANY_VALUES and values * _BYTES_A_VALUE > len(body):
        raise RequestFailed("the answer has too many values", Cause.TOO_LARGE)
    try:
        value: JsonValue = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestFailed("the answer is not JSON") from error
    return value


def _body(content: JsonObject | bytes | None) -> bytes | None:
    if content is None or isinstance(content, bytes):
        return content
    try:
        return encode_canonical_json(content)
    except JsonInvalid as error:
        raise RequestFailed(f"what should be sent has no canonical form: {error}") from error
