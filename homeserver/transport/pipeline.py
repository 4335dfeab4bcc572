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
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import orjson
from prometheus_client import Counter, Histogram
from twisted.internet.defer import CancelledError, Deferred

from homeserver import logs
from homeserver.clock import Clock
from homeserver.core.errors import JsonInvalid
from homeserver.core.identifiers import ServerName
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
    UnknownToken,
    Unrecognized,
)
from homeserver.metrics import REQUEST_SECONDS, RESPONSES
from homeserver.randomness import Randomness
from homeserver.requester import Requester
from homeserver.transport.client_networks import stranger_at
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
from homeserver.transport.http_parser import HttpRequest

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("homeserver.access")

_JSON = "application/json"
_SOON = {"Retry-After": "2"}
_MAX_QUERY_FIELDS = 100
_MAX_JSON_DEPTH = 200
"""orjson writes 254 levels; what is stored gets some around it."""

Authenticate = Callable[[str, Mapping[str, str]], Awaitable[Requester]]
"""From an access token and the query parameters (appservices name a user there) to the requester.
Raises UnknownToken or Forbidden."""
AuthenticateServer = Callable[[str, str, str | None, bytes, str | None], Awaitable[ServerName]]
"""From method, target, Authorization header, body and `RequestInfo.stranger` to the server that
signed them. Raises Unauthorized, Forbidden for a server that is not talked with, LimitExceeded."""
CheckAdmin = Callable[[str], Awaitable[None]]
"""Raises UnknownToken or Forbidden unless the token is an administrator's."""
CountRequest = Callable[[Route, Requester | None, str], None]
"""Raises LimitExceeded when this requester (or this address) has asked too much."""


@dataclass(frozen=True, slots=True)
class Authentication:
    """How it is found out who asks."""

    user: Authenticate
    server: AuthenticateServer
    check_admin: CheckAdmin


class Pipeline:
    def __init__(
        self,
        router: Router,
        *,
        authentication: Authentication,
        count_request: CountRequest,
        clock: Clock,
        randomness: Randomness,
        trust_forwarded: bool,
        token_in_query: bool,
    ) -> None:
        """`token_in_query`: whether `?access_token=` is as good as the header."""
        self._token_in_query = token_in_query
        self._router = router
        self._authentication = authentication
        self._count_request = count_request
        self._clock = clock
        self._process_id = randomness.token(6)
        self._request_numbers = itertools.count(1)
        self._trust_forwarded = trust_forwarded
        self._under_way = 0
        self._drained: Deferred[None] | None = None

    def drain(self) -> Deferred[None]:
        """Refuse requests from now on. Fires when none is under way; the caller may give up."""
        self._drained = Deferred()
        if not self._under_way:
            self._drained.callback(None)
        return self._drained

    def answer(self, request: HttpRequest) -> Deferred[Response]:
        """Never fails but by being cancelled."""
        return contextvars.copy_context().run(self._start, request)

    def _start(self, request: HttpRequest) -> Deferred[Response]:
        logs.request_id.set(f"{self._process_id}-{next(self._request_numbers)}")
        return Deferred.fromCoroutine(self._answer(request))

    async def _answer(self, request: HttpRequest) -> Response:
        self._under_way += 1
        try:
            return await self._find_answer(request)
        finally:
            self._under_way -= 1
            if self._drained is not None and not self._under_way and not self._drained.called:
                self._drained.callback(None)

    async def _find_answer(self, request: HttpRequest) -> Response:
        started = self._clock.monotonic()
        operation = "unknown"
        try:
            path, _, raw_query = request.target.partition(b"?")
            route, values = self._match(request.method, path.decode("latin-1"))
            if route is None:
                response = Response(b"", _JSON, 204)
            else:
                operation = route.declaration.operation_id
                result = await self._call(route, values, _parse_query(raw_query), request)
                if type(result) is RawJSON:
                    response = Response(result.body, _JSON, result.status)
                elif type(result) is Response:
                    response = result
                else:
                    response = Response(orjson.dumps(result), _JSON)
        except MatrixError as error:
            headers = {}
            if isinstance(error, (LimitExceeded, ServiceUnavailable)):
                headers = {"Retry-After": str(-(-error.retry_after_ms // 1000))}
            response = Response(orjson.dumps(error.body()), _JSON, error.status, headers)
        except DatabaseUnavailable as error:  # the pool has logged it
            response = _failure(503, error.told, _SOON)
        except CancelledError:
            RESPONSES.labels(operation, "cancelled").inc()
            raise
        except Exception:
            logger.exception("Request failed operation=%s", operation)
            response = _failure(
                500, f"Internal server error; request id {logs.request_id.get()}", {}
            )
        seconds = self._clock.monotonic() - started
        _seconds_of(operation).observe(seconds)
        _count_of(operation, response.status).inc()
        if access_logger.isEnabledFor(logging.INFO):
            access_logger.info(
                "Answered method=%s operation=%s status=%d bytes=%d seconds=%.4f",
                request.method,
                operation,
                response.status,
                response.length,
                seconds,
            )
        return response

    def _match(self, method: str, path: str) -> tuple[Route | None, list[str]]:
        if self._drained is not None:
            raise ServiceUnavailable("The server is stopping", retry_after_ms=2000)
        if method == "OPTIONS":
            # Also where nothing is served: a browser shows its page no answer after a preflight
            # that failed, and a client could not tell that the server lacks the operation.
            return None, []
        found = self._router.match(path)
        if found is None:
            raise Unrecognized("Unrecognized request path")
        by_method, values = found
        route = by_method.get("GET" if method == "HEAD" else method)
        if route is None:
            raise Unrecognized(f"{method} is not possible here", status=405)
        return route, values

    async def _call(
        self, route: Route, values: list[str], query: Mapping[str, list[str]], request: HttpRequest
    ) -> Any:
        requester = await self._find_requester(route.declaration.auth, request, query)
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
        if route.wants_origin:
            # Before the body is read: it may take long, and what is read takes many times as much.
            arguments["origin"] = await self._authentication.server(
                request.method,
                request.target.decode("ascii"),
                request.header(b"authorization"),
                request.body,
                stranger_at(client_ip),
            )
        if route.body_kind is not None:
            if not request.body and request.method == "PUT":
                raise NotJSON("There is no body")
            arguments["body"] = _decode_body(route.body_kind, request.body)
        if route.wants_requester:
            arguments["requester"] = requester
        if route.wants_request:
            arguments["request"] = RequestInfo(
                client_ip=client_ip,
                stranger=stranger_at(client_ip),
                user_agent=request.header(b"user-agent") or "",
                base_url=self._base_url(request),
                body_bytes=request.body,
                content_type=request.header(b"content-type"),
            )
        return await route.call(**arguments)

    async def _find_requester(
        self, auth: Auth, request: HttpRequest, query: Mapping[str, list[str]]
    ) -> Requester | None:
        if auth is Auth.NONE or auth is Auth.FEDERATION:
            return None
        token = _access_token(request, query if self._token_in_query else {})
        if token is None:
            if auth is Auth.OPTIONAL:
                return None
            raise MissingToken("Missing access token")
        if auth is Auth.ADMIN:
            await self._authentication.check_admin(token)
            return None
        try:
            return await self._authentication.user(token, {k: v[0] for k, v in query.items()})
        except UnknownToken:
            # Who logs in again may still send the token of the session that ended.
            if auth is Auth.OPTIONAL:
                return None
            raise

    def _is_forwarded(self, request: HttpRequest) -> bool:
        """Over TLS others come themselves: the proxy ends theirs, and comes without."""
        return self._trust_forwarded and not request.is_secure

    def _client_ip(self, request: HttpRequest) -> str:
        if self._is_forwarded(request):
            forwarded = request.header(b"x-forwarded-for")
            if forwarded:
                return forwarded.rsplit(",", 1)[-1].strip()
        return request.client_host

    def _base_url(self, request: HttpRequest) -> str:
        host = request.header(b"host") or "localhost"
        scheme = "https" if request.is_secure else "http"
        if self._is_forwarded(request):
            scheme = request.header(b"x-forwarded-proto") or scheme
        return f"{scheme}://{host}"


@cache
def _seconds_of(operation: str) -> Histogram:
    return REQUEST_SECONDS.labels(operation)


@cache
def _count_of(operation: str, status: int) -> Counter:
    return RESPONSES.labels(operation, str(status))


def _failure(status: int, message: str, headers: Mapping[str, str]) -> Response:
    body = orjson.dumps({"errcode": "M_UNKNOWN", "error": message})
    return Response(body, _JSON, status, headers)


def _unquote(raw: str) -> str:
    try:
        text = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidParam("The path is not UTF-8") from error
    if "\x00" in text:
        raise InvalidParam("NUL is not possible in a path")
    return text


def _parse_query(raw: bytes) -> dict[str, list[str]]:
    query: dict[str, list[str]] = {}
    if not raw:
        return query
    try:
        fields = raw.decode("ascii").split("&", _MAX_QUERY_FIELDS)
        if len(fields) > _MAX_QUERY_FIELDS:
            raise InvalidParam("The query has too many parameters")
        for each in fields:
            name, _, value = each.partition("=")
            if "%" in each or "+" in each:
                name, value = _unquote_plus(name), _unquote_plus(value)
            if each:
                query.setdefault(name, []).append(value)
    except UnicodeDecodeError as error:
        raise InvalidParam("The query string is malformed") from error
    return query


def _unquote_plus(raw: str) -> str:
    return unquote(raw.replace("+", " "), errors="strict")


def _access_token(request: HttpRequest, query: Mapping[str, list[str]]) -> str | None:
    header = request.header(b"authorization")
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
