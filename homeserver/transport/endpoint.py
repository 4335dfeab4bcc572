"""Operations as data: method, path, authentication and rate limit stand in one declaration.

The first argument of `@endpoint` is the specification's operationId, so that one grep leads from
the specification to the code and back. The function's parameters are the operation's: path and
query parameters by their names in snake case, `body` for the decoded body, and on demand
`requester`, `origin` (of a federation request) and `request`. A declaration that does not fit its
function fails at start-up.
"""

import enum
import inspect
import re
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, BinaryIO, Concatenate, ParamSpec, TypeVar

from homeserver.core.json_types import JsonObject
from homeserver.transport.decoding import type_hints, without_none


class Auth(enum.Enum):
    NONE = "none"
    CLIENT = "client"
    OPTIONAL = "optional"
    APPSERVICE = "appservice"
    FEDERATION = "federation"
    ADMIN = "admin"
    """An administrator of this server, or a command on its own machine."""


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """What an operation may know of the HTTP request beside its parameters."""

    client_ip: str
    stranger: str | None
    """Whom limits of work for strangers count it for: the address, of an IPv6 one its network.
    None: it came by a proxy, which does not say for whom."""
    user_agent: str
    base_url: str
    body_bytes: bytes = b""
    content_type: str | None = None
    """Of the body, as the client says."""


@dataclass(frozen=True, slots=True)
class RawJSON:
    """A body that is JSON bytes already."""

    body: bytes
    status: int = 200


@dataclass(frozen=True, slots=True)
class FileBody:
    """An open file that is sent piece by piece; whoever sends the response closes it."""

    file: BinaryIO
    size: int
    after: bytes = b""
    """What is sent after it."""


@dataclass(frozen=True, slots=True)
class Response:
    body: bytes
    content_type: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    file: FileBody | None = None
    """Sent after `body`."""

    @property
    def length(self) -> int:
        file = self.file
        return len(self.body) + (0 if file is None else file.size + len(file.after))


EMPTY: JsonObject = {}
Result = JsonObject | RawJSON | Response


@dataclass(frozen=True)
class Declaration:
    operation_id: str
    method: str
    path: str
    auth: Auth
    rate_limited: bool
    extra: str | None
    """Why the operation exists although the specification has none of that name."""
    also: tuple[str, ...]
    """Further path templates for the same operation."""
    wire: Mapping[str, str]
    """Query parameter name in Python -> name on the wire, where snake case is not enough."""


@dataclass(frozen=True)
class Parameter:
    name: str
    wire: str
    kind: Any
    default: Any
    """`inspect.Parameter.empty` when the parameter is required."""
    is_list: bool


@dataclass(frozen=True)
class Route:
    declaration: Declaration
    call: Callable[..., Awaitable[Result]]
    path_parameters: tuple[Parameter, ...]
    query_parameters: tuple[Parameter, ...]
    body_kind: Any
    """None: no body; JsonObject for any JSON object; else a dataclass."""
    wants_requester: bool
    wants_origin: bool
    """The server that signed the request."""
    wants_request: bool
    location: str


P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R", bound=Result)
_ATTRIBUTE = "__endpoint__"


def endpoint(
    operation_id: str,
    method: str,
    path: str,
    *,
    auth: Auth,
    rate_limited: bool = False,
    extra: str | None = None,
    also: Sequence[str] = (),
    wire: Mapping[str, str] | None = None,
) -> Callable[
    [Callable[Concatenate[S, P], Awaitable[R]]], Callable[Concatenate[S, P], Awaitable[R]]
]:
    """Declare an operation.

    extra  why this operation exists though the specification does not know it (admin, unstable)
    """
    declaration = Declaration(
        operation_id,
        method,
        path,
        auth,
        rate_limited,
        extra,
        tuple(also),
        wire or {},
    )

    def mark(
        function: Callable[Concatenate[S, P], Awaitable[R]],
    ) -> Callable[Concatenate[S, P], Awaitable[R]]:
        setattr(function, _ATTRIBUTE, declaration)
        return function

    return mark


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def routes(apis: Sequence[object]) -> list[Route]:
    """Collect every declared operation. Raises TypeError when a declaration does not fit."""
    found = []
    for api in apis:
        for _, function in inspect.getmembers(type(api), inspect.isfunction):
            if hasattr(function, _ATTRIBUTE):
                route = _route(function)
                found.append(replace(route, call=route.call.__get__(api)))
    seen: dict[tuple[str, str], str] = {}
    for route in found:
        for path in (route.declaration.path, *route.declaration.also):
            key = (route.declaration.method, re.sub(r"\{[^}]*\}", "{}", path))
            if key in seen:
                raise TypeError(f"{route.location}: {key} is already {seen[key]}")
            seen[key] = route.declaration.operation_id
    return found


@cache  # tests build many servers, and the declarations stay the same
def _route(function: Callable[..., Any]) -> Route:
    """Compare a declaration with its function, which is not bound to its object yet."""
    declaration: Declaration = getattr(function, _ATTRIBUTE)
    code = function.__code__
    location = f"{code.co_filename}:{code.co_firstlineno}"
    hints = type_hints(function)
    parameters = dict(inspect.signature(function).parameters)
    parameters.pop("self")
    wants_requester = parameters.pop("requester", None) is not None
    wants_origin = parameters.pop("origin", None) is not None
    wants_request = parameters.pop("request", None) is not None
    body_kind = hints["body"] if parameters.pop("body", None) is not None else None
    if wants_requester and declaration.auth in (Auth.NONE, Auth.ADMIN):
        raise TypeError(f"{location}: asks for a requester, but its authentication gives none")
    if wants_origin != (declaration.auth is Auth.FEDERATION):
        raise TypeError(f"{location}: other servers' operations, and no others, have an origin")
    path_parameters = []
    for wire in re.findall(r"\{([^}]*)\}", declaration.path):
        name = snake_case(wire)
        if name not in parameters:
            raise TypeError(f"{location}: no parameter {name} for {{{wire}}}")
        parameter = parameters.pop(name)
        path_parameters.append(Parameter(name, wire, hints[name], parameter.default, False))
    query_parameters = []
    for name, parameter in parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            raise TypeError(f"{location}: {name} is not in the path; make it keyword-only")
        wire = declaration.wire.get(name, name.rstrip("_"))
        kind = without_none(hints[name])
        is_list = typing.get_origin(kind) is list
        if is_list:
            kind = typing.get_args(kind)[0]
        query_parameters.append(Parameter(name, wire, kind, parameter.default, is_list))
    return Route(
        declaration=declaration,
        call=function,
        path_parameters=tuple(path_parameters),
        query_parameters=tuple(query_parameters),
        body_kind=body_kind,
        wants_requester=wants_requester,
        wants_origin=wants_origin,
        wants_request=wants_request,
        location=location,
    )


class Router:
    """Finds the route of a method and path. Segments are matched before percent-decoding."""

    def __init__(self, table: Sequence[Route]) -> None:
        self._root: dict[str, Any] = {}
        for route in table:
            for path in (route.declaration.path, *route.declaration.also):
                node = self._root
                for segment in path.split("/")[1:]:
                    node = node.setdefault("{}" if segment.startswith("{") else segment, {})
                node.setdefault(_LEAF, {})[route.declaration.method] = route

    def match(self, path: str) -> tuple[Mapping[str, Route], list[str]] | None:
        """Return the routes by method for this path and the raw values of its parameters."""
        return self._walk(self._root, path.split("/")[1:], 0, [])

    def _walk(
        self, node: dict[str, Any], segments: list[str], index: int, values: list[str]
    ) -> tuple[Mapping[str, Route], list[str]] | None:
        if index == len(segments):
            leaf = node.get(_LEAF)
            return (leaf, values) if leaf is not None else None
        segment = segments[index]
        literal = node.get(segment)
        if literal is not None and segment != "{}":
            found = self._walk(literal, segments, index + 1, values)
            if found is not None:
                return found
        parameter = node.get("{}")
        if parameter is not None:
            return self._walk(parameter, segments, index + 1, [*values, segment])
        return None


_LEAF = "\x00leaf"  # no path segment contains NUL before decoding
