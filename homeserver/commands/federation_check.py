"""`countersign federation check`: why a server can or cannot be reached, step by step.

spec: server-server-api/#resolving-server-names, #request-authentication, v1.19. The steps are those
of a request: name · our configuration · .well-known · SRV · addresses · TLS · version · keys · a
signed request · our queue. Asked about our own name it looks from outside in. Invariant: each step
is reported when it is done, and what failed comes with what to do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol

from twisted.internet.defer import TimeoutError as LookupTimeout
from twisted.names import dns
from twisted.names.error import DNSNameError, DNSQueryTimeoutError, DomainError, ResolverError

from homeserver.clock import Clock
from homeserver.commands.check_lines import Line, Outcome, forwarding_advice, probed_lines
from homeserver.commands.federation_text import ADVICE, destination_lines, duration
from homeserver.commands.tls_probe import Probed
from homeserver.core.errors import IdentifierInvalid, SignatureInvalid
from homeserver.core.identifiers import ServerName, parse_server_name
from homeserver.core.json_types import JsonObject
from homeserver.core.signing import SigningKey
from homeserver.services.federation.failure_causes import cause_of
from homeserver.services.server_keys import read_response
from homeserver.transport.address_filter import AddressFilter
from homeserver.transport.connections import Place
from homeserver.transport.federation_client import (
    AllowedServers,
    ErrorAnswer,
    FederationClient,
    parse_answer,
    request_json,
)
from homeserver.transport.outbound import Cause, RequestFailed
from homeserver.transport.server_discovery import (
    DEFAULT_PORT,
    SERVICES,
    Destination,
    NoWellKnown,
    ServiceResolver,
    WellKnownClient,
    cache_seconds,
    find_direct,
    read_delegation,
)

_SECONDS = 15.0
_MAX_BYTES = 1_048_576
_WELL_KNOWN_BYTES = 51_200
_CLOCK_SECONDS = 60
_UNAUTHORIZED = 401
_SERVER_ERRORS = 500
_NOBODY = "countersign-federation-check"
"""Localpart of the user whose profile is asked for; no answer about them is needed."""


class Probe(Protocol):
    """`TlsProbe`; tests have a fake."""

    def probe(self, address: str, port: int, tls_name: str) -> Probed: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the steps are made with."""

    own_name: ServerName
    signing_key: SigningKey
    delegated_name: ServerName | None
    allowed: AllowedServers
    addresses: AddressFilter
    well_known: WellKnownClient
    resolver: ServiceResolver
    find_addresses: Callable[[str], Sequence[str]]
    """Raises OSError."""
    probe: Probe
    client: FederationClient
    clock: Clock
    ask_queue: Callable[[ServerName], JsonObject]
    """Asks the running server. Raises Exception with what to say of it."""


class FederationCheck:
    def __init__(self, surroundings: Surroundings, report: Callable[[Line], None]) -> None:
        self._with = surroundings
        self._report = report

    async def run(self, name: str) -> None:
        try:
            server = parse_server_name(name)
        except IdentifierInvalid as error:
            self._failed("name", str(error), "write it as in user ids, after the colon")
            return
        self._ok("name", str(server))
        is_own = server == self._with.own_name
        if not is_own and not self._with.allowed.allows(server):
            self._failed("allowed", "our configuration forbids it", ADVICE["not_allowed"])
            return
        self._ok("allowed", "it is our own name" if is_own else "our configuration allows it")
        destination = await self._find(server, is_own=is_own)
        if not self._reach(destination, is_own=is_own):
            return
        if not await self._ask_version(server):
            return
        await self._ask_keys(server, is_own=is_own)
        if not is_own:
            await self._ask_signed(server)
            self._look_at_queue(server)

    # Where it is.

    async def _find(self, server: ServerName, *, is_own: bool) -> Destination:
        said = "the server's name"
        direct = find_direct(server, said)
        if direct is not None:
            self._ok(".well-known", f"not asked for: {server} says where it is")
            return direct
        delegated = await self._ask_well_known(server, is_own=is_own)
        if delegated is not None:
            said = f".well-known of {server}"
            direct = find_direct(delegated, said)
            if direct is not None:
                self._ok("SRV", f"not asked for: {delegated} says where it is")
                return direct
        host = delegated or server
        places: list[Place] = []
        for service in SERVICES:
            found = await self._look_up(f"{service}.{host}")
            places = places or found
        if places:
            return Destination(places, host, host, f"{said} and SRV")
        return Destination([Place(host, DEFAULT_PORT)], host, host, said)

    async def _ask_well_known(self, server: ServerName, *, is_own: bool) -> ServerName | None:
        step = ".well-known"
        url = f"https://{server}/.well-known/matrix/server"
        meant = self._with.delegated_name if is_own else None
        try:
            answer = await self._with.well_known.get(
                url, timeout_seconds=_SECONDS, max_bytes=_WELL_KNOWN_BYTES
            )
            found = read_delegation(answer)
        except NoWellKnown:
            if meant is None:
                self._ok(step, f"there is none (status 404): SRV and port {DEFAULT_PORT} come next")
            else:
                self._failed(
                    step, f"status 404, although delegated_name is {meant}", forwarding_advice(url)
                )
        except (RequestFailed, ValueError) as error:
            self._well_known_problem(url, error, meant)
        else:
            kept = cache_seconds(answer.headers or {}, self._with.clock.now_ms() / 1000)
            kept_for = f"others keep this for {duration(int(kept * 1000))}"
            if is_own and meant != found:
                wanted = meant or "null"
                self._failed(
                    step,
                    f"it says {found}, but federation.delegated_name is {wanted}; {kept_for}",
                    f"make them equal, or see who else answers at {url}",
                )
            else:
                self._ok(step, f"it is at {found}; {kept_for}")
            return found
        return None

    def _well_known_problem(self, url: str, error: Exception, meant: ServerName | None) -> None:
        """Nobody there is as good as none; something broken there is not."""
        step = ".well-known"
        if isinstance(error, RequestFailed) and meant is None and error.cause is not Cause.TLS:
            self._note(step, f"not there ({error}): SRV and port {DEFAULT_PORT} come next")
        elif meant is not None:
            self._failed(
                step, f"{error}, although delegated_name is {meant}", forwarding_advice(url)
            )
        else:
            self._failed(
                step,
                f"it cannot be used: {error}",
                f"look at {url}: it must be 404, or a JSON object with m.server. Until then servers"
                f" try SRV and port {DEFAULT_PORT}",
            )

    async def _look_up(self, name: str) -> list[Place]:
        try:
            answers, _, _ = await self._with.resolver.lookupService(name, timeout=(2, 4))
        except DNSNameError:
            answers = []
        except (DomainError, ResolverError, DNSQueryTimeoutError, LookupTimeout, OSError) as error:
            self._note(
                "SRV",
                f"{name}: the DNS does not answer ({type(error).__name__})",
                "look at this machine's resolver (/etc/resolv.conf)",
            )
            return []
        records = sorted(
            (answer.payload for answer in answers if answer.type == dns.SRV),
            key=lambda record: (record.priority, -record.weight),
        )
        places = [Place(str(record.target).rstrip("."), record.port) for record in records]
        where = ", ".join(f"{place.host}:{place.port}" for place in places)
        self._ok("SRV", f"{name}: {where or 'none'}")
        return places

    # Getting there.

    def _reach(self, destination: Destination, *, is_own: bool) -> bool:
        """Try every address; one that fails is a failure if no other is good."""
        tried: list[tuple[Line, bool]] = []
        for place in destination.places:
            tried += self._reach_place(place, destination.tls_name, is_own=is_own)
        is_reached = any(is_good for _, is_good in tried)
        for line, _ in tried:
            if is_reached and line.outcome is Outcome.FAILED:
                advice = f"another way works, this one costs time: {line.advice}"
                self._note(line.step, line.found, advice)
            else:
                self._report(line)
        return is_reached

    def _reach_place(self, place: Place, tls_name: str, *, is_own: bool) -> list[tuple[Line, bool]]:
        """Return the lines of every address, and whether it can be used."""
        try:
            found = list(self._with.find_addresses(place.host))
        except OSError as error:
            advice = ADVICE["dns"]
            if is_own:
                advice = f"publish an A or AAAA record of {place.host}"
            return [(Line(Outcome.FAILED, "DNS", f"{place.host}: {error}", advice), False)]
        lines = [(Line(Outcome.OK, "DNS", f"{place.host} is {', '.join(found)}"), False)]
        for address in found:
            where = f"[{address}]:{place.port}" if ":" in address else f"{address}:{place.port}"
            refused = self._filter(address, where, is_own=is_own)
            if refused is not None:
                lines.append((refused, False))
                if not is_own:
                    continue
            probed = self._with.probe.probe(address, place.port, tls_name)
            lines += probed_lines(where, tls_name, probed, self._with.clock, is_own=is_own)
        return lines

    def _filter(self, address: str, where: str, *, is_own: bool) -> Line | None:
        if self._with.addresses.allows(address):
            return None
        if is_own:
            return Line(
                Outcome.NOTE,
                f"address {where}",
                "a private address: only servers of the same network reach it",
                "the DNS that others ask must say the public address",
            )
        return Line(
            Outcome.FAILED,
            f"address {where}",
            "a private address, which this server does not call",
            "if it is a server of your own network: outbound.allowed_networks",
        )

    # Asking it.

    async def _ask_version(self, server: ServerName) -> bool:
        try:
            answer = await request_json(
                self._with.client,
                "GET",
                server,
                "/_matrix/federation/v1/version",
                timeout_seconds=_SECONDS,
                max_bytes=_MAX_BYTES,
                signed=False,
            )
        except RequestFailed as error:
            self._request_failed("version", error)
            return False
        software = answer.get("server")
        named = software if isinstance(software, dict) else {}
        self._ok("version", f"{named.get('name')} {named.get('version')}"[:200])
        return True

    async def _ask_keys(self, server: ServerName, *, is_own: bool) -> None:
        try:
            answer = await self._with.client.fetch(
                server,
                "/_matrix/key/v2/server",
                query={},
                timeout_seconds=_SECONDS,
                max_bytes=_MAX_BYTES,
                signed=False,
            )
            now_ms = self._with.clock.now_ms()
            keys, valid_until = read_response(server, parse_answer(answer.body), now_ms)
        except RequestFailed as error:
            self._request_failed("key", error)
            return
        except SignatureInvalid as error:
            self._failed(
                "key",
                f"its keys are not to be believed: {error}",
                "another server answers in its place (a proxy?), or its server name is set wrong",
            )
            return
        current = [key for key in keys if not key.is_old]
        own = self._with.signing_key
        if is_own and own.verify_key_base64 not in [key.public_key for key in current]:
            self._failed(
                "key",
                "what answers there has another key than our server.signing_key_file",
                "another server answers in our place, or the running one was started with another"
                " key: restart it, or mend the proxy",
            )
        elif valid_until < now_ms:
            self._failed("key", "its keys are no longer valid", "compare both clocks")
        else:
            names = ", ".join(key.key_id for key in current)
            self._ok("key", f"{names}; signed, good for {duration(valid_until - now_ms)}")
        self._compare_clocks((answer.headers or {}).get("date"), now_ms)

    def _compare_clocks(self, date: str | None, now_ms: int) -> None:
        try:
            theirs = parsedate_to_datetime(date or "").timestamp()
        except ValueError:
            self._note("clock", "it does not say what time it is")
            return
        difference = theirs - now_ms / 1000
        if abs(difference) < _CLOCK_SECONDS:
            self._ok("clock", f"less than {_CLOCK_SECONDS} s apart")
            return
        way = "ahead of" if difference > 0 else "behind"
        apart = duration(int(abs(difference) * 1000))
        self._failed("clock", f"it is {apart} {way} ours", "synchronize both (NTP)")

    async def _ask_signed(self, server: ServerName) -> None:
        step = "signed"
        try:
            await request_json(
                self._with.client,
                "GET",
                server,
                "/_matrix/federation/v1/query/profile",
                query={"user_id": f"@{_NOBODY}:{server}", "field": "displayname"},
                timeout_seconds=_SECONDS,
                max_bytes=_MAX_BYTES,
            )
        except ErrorAnswer as error:
            if error.status == _UNAUTHORIZED:
                self._failed(
                    step,
                    f"it cannot check our signature: {error}",
                    "it must be able to fetch our key. Run: countersign federation check (without"
                    " a name). If all is ok there, compare clocks, and ask its administrator"
                    " whether it reaches us",
                )
            elif error.status >= _SERVER_ERRORS:
                self._failed(step, f"it answers {error}", ADVICE["answer_5xx"])
            else:
                self._ok(step, f"it knows us (it answers {error.status} {error.errcode})"[:200])
        except RequestFailed as error:
            self._request_failed(step, error)
        else:
            self._ok(step, "it knows us")

    def _look_at_queue(self, server: ServerName) -> None:
        try:
            found = self._with.ask_queue(server)
        except Exception as error:  # noqa: BLE001 - whatever it is, the check goes on without it
            self._note("our queue", str(error))
            return
        said = [line.strip() for line in destination_lines(found, self._with.clock.now_ms())]
        text = "; ".join(" ".join(line.split()) for line in said[1:])
        if found["is_failing"]:
            self._failed("our queue", text, f"countersign federation retry {server}")
        else:
            self._ok("our queue", text)

    # Saying it.

    def _request_failed(self, step: str, error: RequestFailed) -> None:
        self._failed(step, str(error)[:500], ADVICE[cause_of(error).value])

    def _ok(self, step: str, found: str) -> None:
        self._report(Line(Outcome.OK, step, found))

    def _note(self, step: str, found: str, advice: str = "") -> None:
        self._report(Line(Outcome.NOTE, step, found, advice))

    def _failed(self, step: str, found: str, advice: str) -> None:
        self._report(Line(Outcome.FAILED, step, found, advice))
