"""Where a server is: from its name to hosts and ports.

spec: server-server-api/#resolving-server-names, v1.19. Invariant: the name of the certificate
never comes from DNS: it is the server's name, or what its own host says over HTTPS.

1 address literal   2 explicit port   3 .well-known, then as 1, 2, 4, 5, 6 with what it says
4 SRV _matrix-fed   5 SRV _matrix     6 port 8448
"""

import ipaddress
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import orjson
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as LookupTimeout
from twisted.internet.error import DNSLookupError
from twisted.names import dns
from twisted.names.error import DNSQueryTimeoutError, DomainError, ResolverError

from homeserver.clock import Clock
from homeserver.core.errors import IdentifierInvalid
from homeserver.core.identifiers import ServerName, parse_server_name
from homeserver.randomness import Randomness
from homeserver.transport.connections import Place
from homeserver.transport.outbound import Answer, RequestFailed

DEFAULT_PORT = 8448
_WELL_KNOWN_SECONDS = 15.0
_WELL_KNOWN_BYTES = 51_200
_DAY = 86_400.0
_DEFAULT_CACHE = _DAY
_MAX_CACHE = 2 * _DAY
_MIN_CACHE = 300.0
_FIRST_ERROR_CACHE = 60.0
_LAST_ERROR_CACHE = 3600.0
_SRV_CACHE = 300.0
_MAX_SRV = 8
_MAX_KEPT = 20_000
_MAX_PORT = 65_535
_OK = 200
_NOT_FOUND = 404
SERVICES = ("_matrix-fed._tcp", "_matrix._tcp")
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?(\d+)", re.IGNORECASE)
_NO_STORE = re.compile(r"(?:^|[\s,])(?:no-store|no-cache)(?:$|[\s,])", re.IGNORECASE)


class NoWellKnown(ValueError):
    """The server has none: its name is enough."""


@dataclass(frozen=True, slots=True)
class Destination:
    """How to reach a server."""

    places: Sequence[Place]
    """In the order in which to try them."""
    host_header: str
    tls_name: str
    """Host name or address that the certificate must be for."""
    how: str
    """Which step found it, for people."""


class WellKnownClient(Protocol):
    async def get(self, url: str, *, timeout_seconds: float, max_bytes: int) -> Answer:
        """Raises RequestFailed."""
        ...


class ServiceResolver(Protocol):
    """Twisted's DNS client."""

    def lookupService(self, name: str, timeout: Sequence[int] = ...) -> Deferred[Any]: ...  # noqa: N802 - Twisted's name


@dataclass(slots=True)
class _Delegation:
    target: ServerName | None
    expires: float
    problem: str = ""
    failures: int = 0
    is_broken: bool = False
    """There is one, but it cannot be used."""


class ServerDiscovery:
    def __init__(
        self,
        well_known: WellKnownClient,
        resolver: ServiceResolver,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._well_known = well_known
        self._resolver = resolver
        self._clock = clock
        self._randomness = randomness
        self._delegations: OrderedDict[str, _Delegation] = OrderedDict()
        self._services: OrderedDict[str, tuple[float, list[Place]]] = OrderedDict()

    async def find(self, server: ServerName) -> Destination:
        """Return how to reach the server; that it answers there is not certain.

        Raises RequestFailed for a name that can have no place.
        """
        direct = find_direct(server, "the server's name")  # 1, 2
        if direct is not None:
            return direct
        delegated = (await self._find_delegation(server)).target  # 3
        if delegated is None:
            return await self._by_service(server, "the server's name")
        said = f".well-known of {server}"
        return find_direct(delegated, said) or await self._by_service(delegated, said)

    def problem_of(self, server: ServerName) -> str | None:
        """Say what is wrong with the .well-known that `find` met; None: nothing, or it has none."""
        found = self._delegations.get(server)
        return found.problem if found is not None and found.is_broken else None

    def forget(self, server: ServerName) -> None:
        """Look everything up again at the next request."""
        delegation = self._delegations.pop(server, None)
        for name in (server, delegation.target if delegation else None):
            self._services.pop(str(name), None)

    async def _by_service(self, host: str, said: str) -> Destination:
        for_service = await self._find_service(host)  # 4, 5
        if for_service:
            return Destination(for_service, host, host, f"{said} and SRV")
        return Destination(  # 6
            [Place(host, DEFAULT_PORT)], host, host, f"{said} and port {DEFAULT_PORT}"
        )

    async def _find_delegation(self, host: str) -> _Delegation:
        now = self._clock.monotonic()
        known = self._delegations.get(host)
        if known is not None and known.expires > now:
            return known
        try:
            answer = await self._well_known.get(
                f"https://{host}/.well-known/matrix/server",
                timeout_seconds=_WELL_KNOWN_SECONDS,
                max_bytes=_WELL_KNOWN_BYTES,
            )
            target = read_delegation(answer)
        except (RequestFailed, ValueError) as error:
            if known is not None and known.target is not None and known.failures == 0:
                # What has worked until now is believed a little longer than it said.
                found = _Delegation(known.target, now + _FIRST_ERROR_CACHE, failures=1)
            else:
                failures = known.failures if known is not None else 0
                pause = min(_FIRST_ERROR_CACHE * 2**failures, _LAST_ERROR_CACHE)
                until = now + self._randomness.jitter(pause)
                is_broken = isinstance(error, ValueError) and not isinstance(error, NoWellKnown)
                found = _Delegation(None, until, str(error), min(failures + 1, 10), is_broken)
        else:
            lasts = cache_seconds(answer.headers or {}, self._clock.now_ms() / 1000)
            found = _Delegation(target, now + lasts)
        _keep(self._delegations, host, found)
        return found

    async def _find_service(self, host: str) -> list[Place]:
        now = self._clock.monotonic()
        known = self._services.get(host)
        if known is not None and known[0] > now:
            return known[1]
        places: list[Place] = []
        for service in SERVICES:
            places = await self._look_up(f"{service}.{host}")
            if places:
                break
        _keep(self._services, host, (now + _SRV_CACHE, places))
        return places

    async def _look_up(self, name: str) -> list[Place]:
        """Return what SRV records name, by priority and then at random by weight (RFC 2782)."""
        try:
            answers, _, _ = await self._resolver.lookupService(name, timeout=(2, 4))
        except (
            DomainError,
            ResolverError,
            DNSQueryTimeoutError,
            DNSLookupError,
            LookupTimeout,
            OSError,
            ValueError,  # of a name that DNS cannot have
        ):
            return []
        records = [answer.payload for answer in answers if answer.type == dns.SRV]
        draw = self._randomness.bytes(2 * len(records))
        keyed = []
        for index, record in enumerate(records):
            chance = (int.from_bytes(draw[2 * index : 2 * index + 2]) + 1) / 65537
            keyed.append((record.priority, -(chance ** (1 / max(record.weight, 0.01))), record))
        keyed.sort(key=lambda entry: entry[:2])
        targets = [(str(record.target), record.port) for _, _, record in keyed[:_MAX_SRV]]
        return [Place(host.rstrip("."), port) for host, port in targets if host.strip(".")]


def find_direct(server: ServerName, said: str) -> Destination | None:
    """Return the place of a name that says it itself: an address literal, or with a port."""
    host, port = _split(server)
    try:
        address = str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        if port is None:
            return None
        return Destination([Place(host, port)], server, host, f"{said} with its port")
    return Destination(
        [Place(address, port or DEFAULT_PORT)], server, address, f"{said}, a literal"
    )


def _split(server: str) -> tuple[str, int | None]:
    host, colon, port = server.rpartition(":")
    if not colon or port.endswith("]"):
        return server, None
    if not 0 < int(port) <= _MAX_PORT:
        raise RequestFailed(f"{server} has a port that there cannot be")
    return host, int(port)


def read_delegation(answer: Answer) -> ServerName:
    """Raises ValueError or RequestFailed with what is wrong with it."""
    if answer.status == _NOT_FOUND:
        raise NoWellKnown("status 404")
    if answer.status != _OK:
        raise ValueError(f"status {answer.status}")
    try:
        value = orjson.loads(answer.body)
    except orjson.JSONDecodeError as error:
        raise ValueError("it is not JSON") from error
    target = value.get("m.server") if isinstance(value, dict) else None
    if not isinstance(target, str):
        raise ValueError("it has no m.server")  # noqa: TRY004 - of the other side's value
    try:
        delegated = parse_server_name(target)
    except IdentifierInvalid as error:
        raise ValueError("m.server is not a server name") from error
    _split(delegated)  # its port is one
    return delegated


def cache_seconds(headers: Mapping[str, str], now: float) -> float:
    control = headers.get("cache-control", "")
    age = _MAX_AGE.search(control)
    if _NO_STORE.search(control):
        lasts = 0.0
    elif age is not None:
        lasts = float(age.group(1)[:9])
    elif "expires" in headers:
        try:
            lasts = parsedate_to_datetime(headers["expires"]).timestamp() - now
        except (ValueError, OverflowError, TypeError):
            lasts = 0.0
    else:
        lasts = _DEFAULT_CACHE
    return max(_MIN_CACHE, min(lasts, _MAX_CACHE))


def _keep(cache: OrderedDict[str, Any], key: str, value: Any) -> None:
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > _MAX_KEPT:
        cache.popitem(last=False)
