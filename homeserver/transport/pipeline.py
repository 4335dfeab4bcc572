"""The road of every HTTP request, and the one place that turns exceptions into responses.

1. match the path and method          2. answer CORS preflights
3. authenticate                       4. count against the rate limit
5. decode parameters and body         6. call the operation
7. answer

spec: client-server-api/#api-standards, v1.19. Invariant: nothing of an unexpected error reaches
the client but a request id; the traceback is in the log under the same id.
"""

import contextvars
import inspect
import itertools
import logging
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote_to_bytes

import orjson
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure
from twisted.web.http import Request as HttpRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from homeserver import logs
from homeserver.clock import Clock
from homeserver.core.errors import JsonInvalid
from homeserver.core.json_types import JsonValue
from homeserver.errors import (
    BadJSON,
    DatabaseUnavailable,
    InvalidParam,
    LimitExceeded,
    MatrixError,
    MissingParam,
    MissingToken,
    NotJSON,
    ServiceUnavailable,
    TooLarge,
    UnknownToken,
    Unrecognized,
)
from homeserver.metrics import REQUEST_SECONDS, RESPONSES
from homeserver.randomness import Randomness
from homeserver.requester import Requester
from homeserver.transport.decoding import DecodingFailed, decode, decode_text
from homeserver.transport.endpoint import (
    Auth,
    Parameter,
    RawJSON,
    RequestInfo,
    Response,
    Route,
    Router,
)

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("homeserver.access")

_CORS = (
    (b"Access-Control-Allow-Origin", b"*"),
    (b"Access-Control-Allow-Methods", b"GET, POST, PUT, DELETE, PATCH, OPTIONS"),
    (b"Access-Control-Allow-Headers", b"X-Requested-With, Content-Type, Authorization"),
)
_JSON = b"application/json"
_MAX_JSON_DEPTH = 200
"""orjson writes 254 levels; what is stored gets some around it."""

Authenticate = Callable[[str, Mapping[str, str]], Awaitable[Requester]]
"""From an access token and the query parameters (appservices name a user there) to the requester.
Raises UnknownToken or Forbidden."""
CountRequest = Callable[[Route, Requester | None, str], None]
"""Raises LimitExceeded when this requester (or this address) has asked too much."""


class BoundedRequest(Request):
    """Refuses a body over `site.max_body_bytes` before it is buffered.

    Invariant: the connection is closed after such a refusal, as the rest of the body is unread.
    """

    _is_refused = False
    _content_types: Sequence[bytes] = ()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:  # noqa: N802 - Twisted's name
        if self._is_refused:
            return
        # Twisted would parse forms of any size, and answer broken ones itself: hide what it is.
        self._content_types = self.requestHeaders.getRawHeaders(b"content-type") or ()
        self.requestHeaders.removeHeader(b"content-type")
        super().requestReceived(command, path, version)  # type: ignore[no-untyped-call]  # Twisted has no types here

    def process(self) -> None:
        if self._content_types:
            self.requestHeaders.setRawHeaders(b"content-type", self._content_types)
        super().process()  # type: ignore[no-untyped-call]  # Twisted has no types here

    def gotLength(self, length: int | None) -> None:  # noqa: N802 - Twisted's name
        limit = self._limit()
        if length is not None and length > limit:
            self._refuse(limit)
            return
        super().gotLength(length)  # type: ignore[no-untyped-call]  # Twisted has no types here

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        if self._is_refused:
            return
        limit = self._limit()
        received = self.content.tell() if self.content is not None else 0
        if received + len(data) > limit:
            self._refuse(limit)
            return
        super().handleContentChunk(data)  # type: ignore[no-untyped-call]  # Twisted has no types here

    def _limit(self) -> int:
        # `self.site` is set only when the whole request has been received.
        return int(typing.cast("Any", self.channel).site.max_body_bytes)

    def _refuse(self, limit: int) -> None:
        self._is_refused = True
        if self.content is not None:
            self.content.close()
        body = orjson.dumps(TooLarge(f"The body is larger than {limit} bytes").body())
        channel = self.channel
        if channel is None:
            return
        channel.writeHeaders(
            b"HTTP/1.1",
            b"413",
            b"Payload Too Large",
            [
                (b"Content-Type", _JSON),
                (b"Content-Length", b"%d" % len(body)),
                (b"Connection", b"close"),
                *_CORS,
            ],
        )
        channel.write(body)
        channel.loseConnection()


class BoundedSite(Site):
    requestFactory = BoundedRequest  # noqa: N815 - Twisted's name

    def __init__(self, resource: Resource, *, max_body_bytes: int, timeout_seconds: int) -> None:
        super().__init__(resource, timeout=timeout_seconds)  # type: ignore[no-untyped-call]  # Twisted has no types here
        self.max_body_bytes = max_body_bytes

    def log(self, request: HttpRequest) -> None:
        """Do nothing: the pipeline writes the access log, without secrets."""


class Pipeline(Resource):
    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(
        self,
        router: Router,
        *,
        authenticate: Authenticate,
        count_request: CountRequest,
        clock: Clock,
        randomness: Randomness,
        trust_forwarded: bool,
        token_in_query: bool,
    ) -> None:
        """`token_in_query`: whether `?access_token=` is as good as the header."""
        self._token_in_query = token_in_query
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted has no types here
        self._router = router
        self._authenticate = authenticate
        self._count_request = count_request
        self._clock = clock
        self._process_id = randomness.token(6)
        self._request_numbers = itertools.count(1)
        self._trust_forwarded = trust_forwarded

    def render(self, request: HttpRequest) -> int:
        context = contextvars.copy_context()
        context.run(self._start, request)
        return NOT_DONE_YET

    def _start(self, request: HttpRequest) -> None:
        logs.request_id.set(f"{self._process_id}-{next(self._request_numbers)}")
        running = Deferred.fromCoroutine(self._run(request))
        if request.method == b"GET":
            # Only what reads is cut short when the client hangs up; what was begun is finished.
            request.notifyFinish().addErrback(lambda _: running.cancel())
        else:
            request.notifyFinish().addErrback(lambda _: None)

        def failed(failure: Failure) -> None:
            if not failure.check(CancelledError, ConnectionDone, ConnectionLost):
                logger.error("Pipeline failed", exc_info=failure.value)

        running.addErrback(failed)

    async def _run(self, request: HttpRequest) -> None:
        started = self._clock.monotonic()
        operation = "unknown"
        headers: Mapping[str, str] = {}
        content_type = _JSON
        try:
            route, values = self._match(request)
            if route is None:
                status, body = 204, b""
            else:
                operation = route.declaration.operation_id
                result = await self._call(route, values, request)
                if type(result) is RawJSON:
                    status, body = result.status, result.body
                elif type(result) is Response:
                    status, body, headers = result.status, result.body, result.headers
                    content_type = result.content_type.encode()
                else:
                    status, body = 200, orjson.dumps(result)
        except MatrixError as error:
            status, body = error.status, orjson.dumps(error.body())
            if isinstance(error, (LimitExceeded, ServiceUnavailable)):
                headers = {"Retry-After": str(-(-error.retry_after_ms // 1000))}
        except DatabaseUnavailable:
            logger.exception("Database unavailable")
            status, headers = 503, {"Retry-After": "2"}
            body = orjson.dumps(
                {"errcode": "M_UNKNOWN", "error": "The database does not answer; try again soon"}
            )
        except CancelledError:
            RESPONSES.labels(operation, "cancelled").inc()
            return
        except Exception:
            logger.exception("Request failed operation=%s", operation)
            status = 500
            body = orjson.dumps(
                {
                    "errcode": "M_UNKNOWN",
                    "error": f"Internal server error; request id {logs.request_id.get()}",
                }
            )
        self._answer(request, status, body, content_type, headers)
        seconds = self._clock.monotonic() - started
        REQUEST_SECONDS.labels(operation).observe(seconds)
        RESPONSES.labels(operation, str(status)).inc()
        if access_logger.isEnabledFor(logging.INFO):
            access_logger.info(
                "Answered method=%s operation=%s status=%d bytes=%d seconds=%.4f",
                request.method.decode("ascii", "replace"),
                operation,
                status,
                len(body),
                seconds,
            )

    def _match(self, request: HttpRequest) -> tuple[Route | None, list[str]]:
        path = request.path.decode("latin-1")
        found = self._router.match(path)
        if found is None:
            raise Unrecognized("Unrecognized request path")
        by_method, values = found
        method = request.method.decode("latin-1")
        if method == "OPTIONS":
            return None, values
        route = by_method.get("GET" if method == "HEAD" else method)
        if route is None:
            raise Unrecognized(f"{method} is not possible here", status=405)
        return route, values

    async def _call(self, route: Route, values: list[str], request: HttpRequest) -> Any:
        query = _query(request)
        declaration = route.declaration
        requester = await self._find_requester(declaration.auth, request, query)
        client_ip = self._client_ip(request)
        self._count_request(route, requester, client_ip)
        arguments: dict[str, Any] = {}
        for index, parameter in enumerate(route.path_parameters):
            if index < len(values):
                arguments[parameter.name] = _decode_parameter(parameter, _unquote(values[index]))
        for parameter in route.query_parameters:
            given = query.get(parameter.wire)
            if given is not None:
                if parameter.is_list:
                    arguments[parameter.name] = [_decode_parameter(parameter, v) for v in given]
                else:
                    arguments[parameter.name] = _decode_parameter(parameter, given[0])
            elif parameter.default is inspect.Parameter.empty:
                raise MissingParam(f"Missing query parameter {parameter.wire}")
        body = typing.cast("Any", request.content)
        raw = body.read() if route.body_kind is not None or route.wants_request else b""
        if route.body_kind is not None:
            arguments["body"] = _decode_body(route.body_kind, raw)
        if route.wants_requester:
            arguments["requester"] = requester
        if route.wants_request:
            arguments["request"] = RequestInfo(
                client_ip=client_ip,
                user_agent=request.getHeader("user-agent") or "",
                base_url=self._base_url(request),
                body_bytes=raw,
            )
        return await route.call(**arguments)

    async def _find_requester(
        self, auth: Auth, request: HttpRequest, query: Mapping[str, list[str]]
    ) -> Requester | None:
        if auth is Auth.NONE:
            return None
        token = _access_token(request, query if self._token_in_query else {})
        if token is None:
            if auth is Auth.OPTIONAL:
                return None
            raise MissingToken("Missing access token")
        try:
            return await self._authenticate(token, {k: v[0] for k, v in query.items()})
        except UnknownToken:
            # Who logs in again may still send the token of the session that ended.
            if auth is Auth.OPTIONAL:
                return None
            raise

    def _client_ip(self, request: HttpRequest) -> str:
        if self._trust_forwarded:
            forwarded = request.getHeader("x-forwarded-for")
            if forwarded:
                return forwarded.rsplit(",", 1)[-1].strip()
        return str(getattr(request.getClientAddress(), "host", "unknown"))

    def _base_url(self, request: HttpRequest) -> str:
        host = request.getHeader("host") or "localhost"
        scheme = "https" if request.isSecure() else "http"
        if self._trust_forwarded:
            scheme = request.getHeader("x-forwarded-proto") or scheme
        return f"{scheme}://{host}"

    def _answer(
        self,
        request: HttpRequest,
        status: int,
        body: bytes,
        content_type: bytes,
        headers: Mapping[str, str],
    ) -> None:
        if request.finished or request._disconnected:  # noqa: SLF001 - no public name for it
            return
        request.setResponseCode(status)
        response_headers = request.responseHeaders
        for name, value in _CORS:
            response_headers.setRawHeaders(name, [value])
        response_headers.setRawHeaders(b"Content-Type", [content_type])
        response_headers.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        for header, text in headers.items():
            response_headers.setRawHeaders(header, [text])
        if request.method != b"HEAD":
            request.write(body)
        request.finish()


def _unquote(raw: str) -> str:
    try:
        text = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidParam("The path is not UTF-8") from error
    if "\x00" in text:
        raise InvalidParam("NUL is not possible in a path")
    return text


def _query(request: HttpRequest) -> dict[str, list[str]]:
    _, _, raw = request.uri.partition(b"?")
    if not raw:
        return {}
    try:
        return parse_qs(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100
        )
    except ValueError as error:  # UnicodeDecodeError is one
        raise InvalidParam("The query string is malformed") from error


def _access_token(request: HttpRequest, query: Mapping[str, list[str]]) -> str | None:
    header = request.getHeader("authorization")
    if header is not None:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise MissingToken("The Authorization header must be: Bearer ACCESS_TOKEN")
        return token.strip()
    in_query = query.get("access_token")
    return in_query[0] if in_query else None


def _decode_parameter(parameter: Parameter, text: str) -> object:
    if parameter.kind is str:
        return text
    try:
        return decode_text(parameter.kind, text)
    except DecodingFailed as error:
        raise InvalidParam(f"{parameter.wire} {error.problems[0].message}") from error


def _is_too_deep(value: JsonValue) -> bool:
    level: list[JsonValue] = [value]
    for _ in range(_MAX_JSON_DEPTH):
        inner: list[JsonValue] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        level = inner
    return bool(level)


def _decode_body(kind: Any, raw: bytes) -> object:
    if not raw:
        raw = b"{}"
    try:
        value = orjson.loads(raw)
    except (orjson.JSONDecodeError, JsonInvalid) as error:
        raise NotJSON("The body is not JSON") from error
    if not isinstance(value, dict):
        raise BadJSON("The body must be a JSON object")
    if raw.count(b"{") + raw.count(b"[") > _MAX_JSON_DEPTH and _is_too_deep(value):
        raise BadJSON("The body is nested too deeply")
    try:
        return decode(kind, value)
    except DecodingFailed as error:
        problem = error.problems[0]
        message = f"{problem.path or 'body'} {problem.message}"
        raise (MissingParam if problem.missing else BadJSON)(message) from error
