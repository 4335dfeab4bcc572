"""Outbound HTTP: every call has a time-out and a bound on the answer.

Invariants: an answer that is larger than its bound, head or body, is not read to its end: the
connection is cut. Whatever the other side does, the caller gets an Answer or RequestFailed; that a
kept connection has ended meanwhile is no reason for the latter.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol
from urllib.parse import urljoin

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import (
    ConnectError,
    ConnectionDone,
    ConnectionLost,
    DNSLookupError,
)
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web._newclient import (  # they have no public names
    HEADER,
    STATUS,
    HTTP11ClientProtocol,
    RequestNotSent,
    RequestTransmissionFailed,
)
from twisted.web.client import (
    URI,
    Agent,
    HTTPConnectionPool,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
    _HTTP11ClientFactory,
)
from twisted.web.error import SchemeNotSupported
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from homeserver.transport.certificates import CertificateRefused
from homeserver.transport.connections import Connections, Place

MAX_ANSWER_BYTES = 1_048_576
MAX_HEAD_BYTES = 65_536
_MAX_HELD_BYTES = 512 * 1_048_576
"""Of all bodies that are being read. Small ones are always read."""
_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_IDLE_SECONDS = 60
_MAX_IDLE_PER_HOST = 4


class Cause(Enum):
    """Why there was no answer, for people who must find out what is broken."""

    DNS = "dns"
    WELL_KNOWN = "well_known"
    """Its .well-known is broken, and nothing answers where it would be without one."""
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    TOO_LARGE = "too_large"
    PROTOCOL = "protocol"


class RequestFailed(Exception):
    """There was no answer; the message says why."""

    def __init__(self, message: str, cause: Cause = Cause.PROTOCOL) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str] | None = None
    """By name in lower case; the first of each."""


class HttpClient(Protocol):
    """`OutboundHttp` in the server; tests have a fake."""

    async def request(
        self, method: str, url: str, *, token: str, body: bytes, timeout_seconds: float
    ) -> Answer: ...


class Exchanges:
    """Requests over kept connections, to wherever `endpoint_for` leads."""

    def __init__(self, reactor: Any, endpoint_for: Callable[[URI], IStreamClientEndpoint]) -> None:
        pool = _Pool(reactor, persistent=True)  # type: ignore[no-untyped-call]  # no types there
        pool.maxPersistentPerHost = _MAX_IDLE_PER_HOST
        pool.cachedConnectionTimeout = _IDLE_SECONDS
        self._reactor = reactor
        self._held = _HeldBytes()
        self._agent = Agent.usingEndpointFactory(reactor, _EndpointFactory(endpoint_for), pool)

    async def perform(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        timeout_seconds: float,
        max_bytes: int,
    ) -> Answer:
        """Raises RequestFailed; a cancelled call stays cancelled, so that the server can stop."""
        performing = Deferred.fromCoroutine(self._perform(method, url, headers, body, max_bytes))
        has_timed_out = False

        def give_up() -> None:
            nonlocal has_timed_out
            has_timed_out = True
            performing.cancel()

        timer = self._reactor.callLater(timeout_seconds, give_up)
        try:
            return await performing
        except Exception as error:
            if has_timed_out:
                message = f"no answer in {timeout_seconds:.3g} s"
                raise RequestFailed(message, Cause.TIMEOUT) from error
            explained = _explain(error)
            if explained is error:
                raise
            raise explained from error
        finally:
            if timer.active():
                timer.cancel()

    async def _perform(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, max_bytes: int
    ) -> Answer:
        response: Any = await self._agent.request(
            method.encode(),
            url.encode(),
            Headers({name: [value] for name, value in headers.items()}),
            None if body is None else _Body(body),
        )
        collector = _Collector(max_bytes, self._held)
        response.deliverBody(collector)
        found = await collector.answer
        return Answer(
            int(response.code),
            found,
            {
                name.decode("latin-1").lower(): values[0].decode("latin-1")
                for name, values in response.headers.getAllRawHeaders()
            },
        )


class OutboundHttp:
    """Requests to URLs."""

    def __init__(self, reactor: Any, connections: Connections) -> None:
        self._reactor = reactor
        self._exchanges = Exchanges(reactor, lambda uri: _endpoint_of(connections, uri))

    async def request(
        self, method: str, url: str, *, token: str, body: bytes, timeout_seconds: float
    ) -> Answer:
        """Raises RequestFailed."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return await self._exchanges.perform(
            method,
            url,
            headers,
            body,
            timeout_seconds=timeout_seconds,
            max_bytes=MAX_ANSWER_BYTES,
        )

    async def get(self, url: str, *, timeout_seconds: float, max_bytes: int) -> Answer:
        """Follow redirects, from https only to https. Raises RequestFailed.

        timeout_seconds  for all of it
        """
        until = self._reactor.seconds() + timeout_seconds
        for _ in range(_MAX_REDIRECTS + 1):
            left = max(0.0, until - self._reactor.seconds())
            answer = await self._exchanges.perform(
                "GET", url, {}, None, timeout_seconds=left, max_bytes=max_bytes
            )
            if answer.status not in _REDIRECTS:
                return answer
            try:
                target = urljoin(url, (answer.headers or {}).get("location", ""))
            except ValueError as error:
                raise RequestFailed("redirected to what is no URL") from error
            if not target.startswith("https://" if url.startswith("https://") else "http"):
                raise RequestFailed(f"redirected to {target[:200]}, which is not followed")
            url = target
        raise RequestFailed(f"more than {_MAX_REDIRECTS} redirects")


def _endpoint_of(connections: Connections, uri: URI) -> IStreamClientEndpoint:
    host = uri.host.decode("ascii").strip("[]")
    if uri.scheme == b"https":
        return connections.endpoint([Place(host, uri.port)], host)
    if uri.scheme == b"http":
        return connections.endpoint([Place(host, uri.port)], None)
    raise SchemeNotSupported(f"no {uri.scheme!r} requests are made")


@implementer(IAgentEndpointFactory)
class _EndpointFactory:
    def __init__(self, endpoint_for: Callable[[URI], IStreamClientEndpoint]) -> None:
        self.endpointForURI = endpoint_for


@implementer(IBodyProducer)
class _Body:
    """Writes all at once, and again if it is asked to."""

    def __init__(self, content: bytes) -> None:
        self.length = len(content)
        self._content = content

    def startProducing(self, consumer: Any) -> Deferred[None]:  # noqa: N802 - Twisted's name
        consumer.write(self._content)
        return succeed(None)

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        """There is nothing more to write."""

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's name
        """There is nothing more to write."""

    def stopProducing(self) -> None:  # noqa: N802 - Twisted's name
        """There is nothing more to write."""


class _Connection(HTTP11ClientProtocol):
    """Bounds the head of an answer, which Twisted reads to its end, be it ever so long."""

    transport: Any
    was_used = False
    _head_bytes = 0

    def request(self, request: Any) -> Deferred[Any]:
        self._head_bytes = 0
        self.was_used = True
        return super().request(request)

    def cut(self) -> None:
        """Close without the other side's consent: over TLS it could go on sending for ever."""
        if self.state != "CONNECTION_LOST":  # Twisted's TLS cannot be cut off twice
            self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        super().dataReceived(data)  # type: ignore[no-untyped-call]  # Twisted has no types here
        if self._parser is None or self._parser.state not in (STATUS, HEADER):
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            too_large = RequestFailed("the answer's head is too large", Cause.TOO_LARGE)
            self._giveUp(Failure(too_large))

    def _giveUp(self, reason: Failure) -> None:  # noqa: N802 - Twisted's name
        self.cut()
        self._disconnectParser(reason)  # type: ignore[no-untyped-call]  # Twisted has no types here


class _ConnectionFactory(_HTTP11ClientFactory):
    def buildProtocol(self, addr: object) -> _Connection:  # noqa: N802 - Twisted's name
        del addr
        return _Connection(self._quiescentCallback)  # type: ignore[no-untyped-call]  # as above


class _KeptConnection:
    """Asks once more, on a new connection, what the other side has not answered on this one.

    It most likely closed it just as it was taken. POST as well: what servers ask each other by it
    reads, but for one-time keys, of which one more may then be used up.
    """

    def __init__(self, kept: _Connection, connect: Callable[[], Deferred[_Connection]]) -> None:
        self._kept = kept
        self._connect = connect

    def request(self, request: Any) -> Deferred[Any]:
        return self._kept.request(request).addErrback(self._request_again, request)

    def _request_again(self, failure: Failure, request: Any) -> Failure | Deferred[Any]:
        if not failure.check(RequestNotSent, RequestTransmissionFailed, ResponseNeverReceived):
            return failure
        reasons = getattr(failure.value, "reasons", ())
        if not all(reason.check(ConnectionDone, ConnectionLost) for reason in reasons):
            return failure
        return self._connect().addCallback(lambda connection: connection.request(request))


class _Pool(HTTPConnectionPool):
    _factory = _ConnectionFactory
    retryAutomatically = False  # noqa: N815 - Twisted's name
    """Twisted would not repeat what has a body."""
    _connections: dict[Hashable, list[_Connection]]

    def getConnection(self, key: Hashable, endpoint: IStreamClientEndpoint) -> Deferred[Any]:  # noqa: N802 - Twisted's name
        def connect() -> Deferred[Any]:
            return self._newConnection(key, endpoint)

        def found(connection: _Connection) -> _Connection | _KeptConnection:
            return _KeptConnection(connection, connect) if connection.was_used else connection

        getting: Deferred[Any] = super().getConnection(key, endpoint)
        self._forget_empty(key)
        return getting.addCallback(found)

    def _putConnection(self, key: Hashable, connection: _Connection) -> None:  # noqa: N802 - Twisted's name
        kept = self._connections.get(key, [])
        dropped = kept[:1] if len(kept) >= self.maxPersistentPerHost else []
        super()._putConnection(key, connection)  # type: ignore[no-untyped-call]  # Twisted has no types here
        for one in dropped:
            one.cut()

    def _removeConnection(self, key: Hashable, connection: _Connection) -> None:  # noqa: N802 - Twisted's name
        """First of all it leaves the pool: half of it there would fail the next request."""
        super()._removeConnection(key, connection)  # type: ignore[no-untyped-call]  # as above
        self._forget_empty(key)
        connection.cut()

    def _forget_empty(self, key: Hashable) -> None:
        if not self._connections.get(key, True):
            del self._connections[key]


@dataclass(slots=True)
class _HeldBytes:
    count: int = 0


class _Collector(TwistedProtocol):
    def __init__(self, max_bytes: int, held: _HeldBytes) -> None:
        self.answer: Deferred[bytes] = Deferred(self._cancel)
        self._max_bytes = max_bytes
        self._held = held
        self._chunks: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        if self.answer.called:
            return
        self._size += len(data)
        self._held.count += len(data)
        self._chunks.append(data)
        if self._size > self._max_bytes:
            self._fail(f"the answer is larger than {self._max_bytes} bytes")
        elif self._held.count > _MAX_HELD_BYTES and self._size > MAX_ANSWER_BYTES:
            self._fail("too many large answers are being read")

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 - Twisted's name
        if self.answer.called:
            return
        self._let_go()
        if reason.check(ResponseDone, PotentialDataLoss):
            self.answer.callback(b"".join(self._chunks))
        else:
            self.answer.errback(reason)

    def _cancel(self, _: object) -> None:
        self._let_go()
        self._cut()

    def _fail(self, message: str) -> None:
        self._let_go()
        self.answer.errback(RequestFailed(message, Cause.TOO_LARGE))
        self._cut()

    def _let_go(self) -> None:
        self._held.count -= self._size
        self._size = 0

    def _cut(self) -> None:
        self._chunks = []
        connection = getattr(self.transport, "_producer", None)  # the proxy cannot do it
        if connection is not None:
            connection.abortConnection()


def _explain(error: Exception) -> Exception:
    """Return what a failure means to the caller: RequestFailed, unless it was cancelled."""
    match error:
        case ConnectTimeout():
            return RequestFailed("the address does not answer", Cause.TIMEOUT)
        case DNSLookupError():
            return RequestFailed(str(error), Cause.DNS)
        case ConnectError():
            return RequestFailed(str(error), Cause.CONNECT)
        case SSL.Error() | CertificateRefused():
            return RequestFailed(_tls_message(error), Cause.TLS)
        case ResponseFailed() | RequestTransmissionFailed() | ConnectionDone() | ConnectionLost():
            return _explain_loss(error)
        case SchemeNotSupported() | LookupError() | OverflowError() | ValueError():
            # A URL, host name or port that there cannot be.
            return RequestFailed(f"it cannot be asked: {error}"[:500])
    return error


def _explain_loss(error: Exception) -> Exception:
    """Name the innermost cause: a bad certificate looks like a lost connection from outside."""
    for reason in getattr(error, "reasons", ()):
        if reason.check(SSL.Error, CertificateRefused):
            return RequestFailed(_tls_message(reason.value), Cause.TLS)
        if isinstance(reason.value, (RequestFailed, CancelledError)):
            return reason.value
    return RequestFailed("the connection was closed before there was a whole answer", Cause.CONNECT)


def _tls_message(error: BaseException) -> str:
    if isinstance(error, CertificateRefused):
        return str(error)
    details = error.args[0] if error.args else ()
    reasons = [str(entry[-1]) for entry in details if isinstance(entry, tuple) and entry]
    return "TLS failed: " + (", ".join(reasons) or "the connection was closed")
