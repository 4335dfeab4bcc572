"""From a connection's bytes to whole requests; httptools (llhttp) reads the grammar.

Spec: RFC 9112 and RFC 9110. What two parsers could read in two ways (a length given twice, a
chunked body with a length, an encoding that we do not undo, a header of which one counts) ends the
connection, so that no proxy in front sees other requests than we do.
Invariant: what is kept is bounded: one head, one body, and `MAX_WAITING` requests behind it.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import httptools

MAX_HEAD_BYTES = 32 * 1024
"""Request line and headers. Filters written out in a sync's query are the largest we know."""
MAX_HEADERS = 100
MAX_WAITING = 32
"""Requests a client may send ahead while the first is answered."""
_GIVEN_ONCE = frozenset((b"host", b"content-type", b"transfer-encoding"))
_MAX_WIRE_FACTOR = 8
"""A chunked body is larger on the wire than it is; a client that makes it this much larger errs."""


class RequestRefused(Exception):
    """Nothing more can be read from this connection."""

    def __init__(self, status: int, message: str, errcode: str = "M_UNKNOWN") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.errcode = errcode


@dataclass(slots=True)
class HttpRequest:
    method: str
    target: bytes
    """Path and query as they were sent."""
    headers: Mapping[bytes, str]
    """Names in lower case; a header given more than once is one value with commas."""
    body: bytes
    client_host: str
    is_secure: bool
    keeps_connection: bool

    def header(self, name: bytes) -> str | None:
        return self.headers.get(name)


class RequestParser:
    """Feed bytes with `receive`; what is complete waits in `ready`."""

    __slots__ = (
        "_body",
        "_client_host",
        "_headers",
        "_is_secure",
        "_larger_bodies",
        "_max_body",
        "_parser",
        "_refusal",
        "_target",
        "_usual_max_body",
        "_wire_bytes",
        "is_in_body",
        "ready",
        "wants_continue",
    )

    def __init__(
        self,
        max_body_bytes: int,
        client_host: str,
        *,
        is_secure: bool,
        larger_bodies: Mapping[bytes, int] = MappingProxyType({}),
    ) -> None:
        """`larger_bodies`: limits that differ, by the beginning of the path."""
        self._usual_max_body = self._max_body = max_body_bytes
        self._larger_bodies = larger_bodies
        self._client_host = client_host
        self._is_secure = is_secure
        self._parser: Any = httptools.HttpRequestParser(self)
        self._refusal: RequestRefused | None = None
        self._target = b""
        self._headers: dict[bytes, str] = {}
        self._body = bytearray()
        self._wire_bytes = 0
        """Received since the head, or the body, under way began."""
        self.ready: deque[HttpRequest] = deque()
        self.is_in_body = False
        self.wants_continue = False
        """Whether the client waits for a word before it sends the body."""

    def receive(self, data: bytes) -> None:
        """Raises RequestRefused; what is in `ready` may still be answered."""
        self._wire_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the request was complete; it is answered as if it had not asked
        except httptools.HttpParserInvalidMethodError as error:
            raise RequestRefused(405, "Unrecognized method", "M_UNRECOGNIZED") from error
        except httptools.HttpParserError as error:
            raise self._refusal or RequestRefused(400, f"Not HTTP/1.1: {error}") from error
        if self._refusal is None and self._wire_bytes > MAX_HEAD_BYTES and not self.is_in_body:
            self._refuse(431, "The request's head is too large", "M_TOO_LARGE")
        if self._refusal is not None:
            raise self._refusal

    @property
    def held_bytes(self) -> int:
        """What bodies take, of the request that comes in and of those that wait."""
        return len(self._body) + sum(len(request.body) for request in self.ready)

    def _refuse(self, status: int, message: str, errcode: str = "M_UNKNOWN") -> None:
        self._refusal = self._refusal or RequestRefused(status, message, errcode)

    # --- what httptools calls; it goes on to the end of its data whatever is found

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = {}

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.is_in_body:
            return  # trailers mean nothing
        name = name.lower()
        text = value.decode("utf-8", "replace")
        if name not in self._headers:
            self._headers[name] = text
        elif name in _GIVEN_ONCE:
            self._refuse(400, "A header that may be given once is given twice")
        else:
            self._headers[name] += ", " + text
        if len(self._headers) > MAX_HEADERS:
            self._refuse(431, "There are too many headers", "M_TOO_LARGE")

    def on_headers_complete(self) -> None:
        headers = self._headers
        self.is_in_body = True
        self._wire_bytes = 0
        self._max_body = self._find_max_body()
        version = self._parser.get_http_version()
        encoding = headers.get(b"transfer-encoding")
        length = headers.get(b"content-length")
        has_body = encoding is not None or length not in (None, "0")
        if version not in ("1.1", "1.0"):
            self._refuse(505, "Only HTTP/1.1 is spoken here")
        elif version == "1.1" and b"host" not in headers:
            self._refuse(400, "The Host header is missing")
        elif encoding is not None and (version == "1.0" or encoding.lower() != "chunked"):
            self._refuse(501, "Of the transfer encodings only chunked is known")
        elif length is not None and int(length) > self._max_body:
            self._refuse_body()
        elif has_body and self._parser.should_upgrade():
            self._refuse(400, "A request with a body cannot ask for an upgrade")
        self.wants_continue = has_body and headers.get(b"expect", "").lower() == "100-continue"

    def _find_max_body(self) -> int:
        for beginning, limit in self._larger_bodies.items():
            if self._target.startswith(beginning):
                return limit
        return self._usual_max_body

    def _refuse_body(self) -> None:
        self._refuse(413, f"The body is larger than {self._max_body} bytes", "M_TOO_LARGE")

    def on_body(self, part: bytes) -> None:
        if self._refusal is not None:
            return
        if (
            len(self._body) + len(part) > self._max_body
            or self._wire_bytes > MAX_HEAD_BYTES + _MAX_WIRE_FACTOR * self._max_body
        ):
            self._refuse_body()
            return
        self._body += part

    def on_message_complete(self) -> None:
        body, self._body = bytes(self._body), bytearray()
        self.is_in_body = False
        self.wants_continue = False
        self._wire_bytes = 0
        if len(self.ready) >= MAX_WAITING:
            self._refuse(400, "Too many requests are sent ahead")
        if self._refusal is not None:
            return
        self.ready.append(
            HttpRequest(
                self._parser.get_method().decode("ascii"),
                self._target if self._target.startswith(b"/") else _path(self._target),
                self._headers,
                body,
                self._client_host,
                self._is_secure,
                self._parser.should_keep_alive() and not self._parser.should_upgrade(),
            )
        )
        self._headers = {}


def _path(url: bytes) -> bytes:
    """Return the path and query of a whole URL; RFC 9112, 3.2.2 wants it understood."""
    _, slash, path = url.partition(b"://")[2].partition(b"/")
    return slash + path or b"/"
