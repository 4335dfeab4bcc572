"""Checking a server by name: what .well-known, DNS and addresses say, without a network."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock as FakeReactor
from twisted.names import dns
from twisted.names.error import DNSNameError, DNSServerError

from homeserver.clock import Clock
from homeserver.commands.check_lines import Line
from homeserver.commands.federation_check import FederationCheck, Surroundings
from homeserver.commands.federation_text import ADVICE
from homeserver.commands.tls_probe import Certificate, Probed
from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from homeserver.core.signing import sign_json
from homeserver.services.federation.failure_causes import FailureCause
from homeserver.transport.address_filter import AddressFilter
from homeserver.transport.federation_client import AllowedServers, check_answer
from homeserver.transport.outbound import Answer, Cause, RequestFailed
from tests.homeserver import START_MS, key_of

US = ServerName("us.test")
THEM = ServerName("them.test")
PUBLIC, PRIVATE = "1.1.1.1", "10.0.0.1"
VALID = Certificate("any", "somebody", datetime(2030, 1, 1, tzinfo=UTC))


class Internet:
    """What the world says in a test; each part can be changed before the check."""

    def __init__(self) -> None:
        self.well_known: Answer | RequestFailed = Answer(404, b"")
        self.services: dict[str, list[tuple[int, str, int]] | None] = {}
        """Priority, host and port by name of the service; None: the DNS does not answer."""
        self.addresses: dict[str, list[str]] = {}
        self.probed: dict[str, Probed] = {}
        self.certificates_asked: list[tuple[str, int, str]] = []
        self.queue: JsonObject | None = None
        self.signed = 404
        """What it answers to a signed request."""
        self.ahead_seconds = 0

    async def get(self, url: str, *, timeout_seconds: float, max_bytes: int) -> Answer:
        del url, timeout_seconds, max_bytes
        if isinstance(self.well_known, RequestFailed):
            raise self.well_known
        return self.well_known

    def lookupService(self, name: str, timeout: Sequence[int] = ()) -> "Deferred[Any]":  # noqa: N802 - Twisted's name
        del timeout
        found = self.services.get(name, [])
        if found is None:
            return fail(DNSServerError("SERVFAIL"))
        if not found:
            return fail(DNSNameError("no such name"))
        records = [
            dns.RRHeader(name, dns.SRV, payload=dns.Record_SRV(priority, 5, port, host))
            for priority, host, port in found
        ]
        return succeed((records, [], []))

    def find_addresses(self, host: str) -> list[str]:
        if host not in self.addresses:
            raise OSError("Name or service not known")
        return self.addresses[host]

    def probe(self, address: str, port: int, tls_name: str) -> Probed:
        self.certificates_asked.append((address, port, tls_name))
        return self.probed.get(address, Probed(certificate=VALID))

    async def fetch(self, server: ServerName, path: str, **_: Any) -> Answer:
        answer = Answer(self.signed, b'{"errcode":"M_X","error":"a reason"}')
        if path.endswith("/version"):
            answer = Answer(200, b'{"server":{"name":"Them","version":"1"}}')
        elif path == "/_matrix/key/v2/server":
            now = datetime.fromtimestamp(START_MS / 1000 + self.ahead_seconds, UTC)
            date = format_datetime(now, usegmt=True)
            answer = Answer(200, json.dumps(keys_of(server)).encode(), {"date": date})
        check_answer(answer)
        return answer

    async def fetch_url(self, url: str, **_: Any) -> Answer:
        raise AssertionError(url)

    async def request(self, method: str, server: ServerName, path: str, **_: Any) -> bytes:
        assert method == "GET"
        return (await self.fetch(server, path)).body

    def ask_queue(self, server: ServerName) -> JsonObject:
        if self.queue is None:
            raise LookupError(f"There was never anything to tell {server}")
        return self.queue


def keys_of(server: ServerName) -> JsonObject:
    key = key_of(server)
    return sign_json(
        {
            "server_name": server,
            "valid_until_ts": START_MS + 86_400_000,
            "verify_keys": {key.key_id: {"key": key.verify_key_base64}},
        },
        server,
        key,
    )


Check = Callable[..., Mapping[str, Line]]


@pytest.fixture
def internet() -> Internet:
    return Internet()


@pytest.fixture
def check(internet: Internet) -> Check:
    """Check a server; gives the lines by step, of several in one step those that are worst."""

    def run(name: str, delegated_name: ServerName | None = None) -> Mapping[str, Line]:
        reactor = FakeReactor()
        lines: list[Line] = []
        surroundings = Surroundings(
            own_name=US,
            signing_key=key_of(US),
            delegated_name=delegated_name,
            allowed=AllowedServers(None, ["bad.test"]),
            addresses=AddressFilter(),
            well_known=internet,
            resolver=internet,
            find_addresses=internet.find_addresses,
            probe=internet,
            client=internet,
            clock=Clock(reactor, wall=lambda: START_MS / 1000 + reactor.seconds()),
            ask_queue=internet.ask_queue,
        )
        done: list[object] = []
        Deferred.fromCoroutine(FederationCheck(surroundings, lines.append).run(name)).addBoth(
            done.append
        )
        assert done == [None], done
        order = {"ok": 0, "note": 1, "FAILED": 2}
        return {line.step: line for line in sorted(lines, key=lambda x: order[x.outcome.value])}

    return run


def outcome(lines: Mapping[str, Line], step: str) -> str:
    return lines[step].outcome.value


def test_without_well_known_and_srv_it_is_at_port_8448(internet: Internet, check: Check) -> None:
    internet.addresses = {"them.test": [PUBLIC]}

    lines = check(THEM)

    assert {line.outcome.value for line in lines.values()} == {"ok", "note"}
    assert "there is none (status 404)" in lines[".well-known"].found
    assert internet.certificates_asked == [(PUBLIC, 8448, "them.test")]
    assert [step for step, line in lines.items() if line.outcome.value == "note"] == ["our queue"]


def test_a_delegation_is_followed_and_how_long_it_is_kept_is_said(
    internet: Internet, check: Check
) -> None:
    internet.well_known = Answer(
        200, b'{"m.server":"matrix.them.test:443"}', {"cache-control": "max-age=7200"}
    )
    internet.addresses = {"matrix.them.test": [PUBLIC]}

    lines = check(THEM)

    assert (
        lines[".well-known"].found
        == "it is at matrix.them.test:443; others keep this for 2 h 0 min"
    )
    assert internet.certificates_asked == [(PUBLIC, 443, "matrix.them.test")]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(200, b"<html>"), "it is not JSON"),
        (Answer(200, b'{"m.server":"a b"}'), "m.server is not a server name"),
        (Answer(502, b""), "status 502"),
        (RequestFailed("TLS failed: certificate has expired", Cause.TLS), "expired"),
    ],
)
def test_a_broken_well_known_is_a_failure_and_the_check_goes_on(
    internet: Internet, check: Check, answer: Answer | RequestFailed, said: str
) -> None:
    internet.well_known = answer
    internet.addresses = {"them.test": [PUBLIC]}

    lines = check(THEM)

    assert outcome(lines, ".well-known") == "FAILED"
    assert said in lines[".well-known"].found
    assert "m.server" in lines[".well-known"].advice
    assert outcome(lines, "version") == "ok"


def test_both_srv_names_are_shown_and_the_newer_one_counts(
    internet: Internet, check: Check
) -> None:
    internet.services = {
        "_matrix-fed._tcp.them.test": [(20, "second.test", 2), (10, "first.test", 1)],
        "_matrix._tcp.them.test": [(1, "old.test", 3)],
    }
    internet.addresses = {"first.test": [PUBLIC], "second.test": [PUBLIC]}

    check(THEM)

    assert [(port, name) for _, port, name in internet.certificates_asked] == [
        (1, "them.test"),
        (2, "them.test"),
    ]


def test_a_dns_that_does_not_answer_is_not_taken_for_no_record(
    internet: Internet, check: Check
) -> None:
    internet.services = dict.fromkeys(("_matrix-fed._tcp.them.test", "_matrix._tcp.them.test"))
    internet.addresses = {"them.test": [PUBLIC]}

    lines = check(THEM)

    assert outcome(lines, "SRV") == "note"
    assert "the DNS does not answer" in lines["SRV"].found


def test_a_name_without_address_ends_the_check(internet: Internet, check: Check) -> None:
    lines = check(THEM)

    assert outcome(lines, "DNS") == "FAILED"
    assert "version" not in lines


def test_one_bad_address_beside_a_good_one_is_only_noted(internet: Internet, check: Check) -> None:
    internet.addresses = {"them.test": ["2606:4700::1", PUBLIC]}
    internet.probed = {"2606:4700::1": Probed(connect_problem="no answer in 10 s")}

    lines = check(THEM)

    assert outcome(lines, "connect [2606:4700::1]:8448") == "note"
    assert outcome(lines, "version") == "ok"


def test_a_private_address_is_not_called(internet: Internet, check: Check) -> None:
    internet.addresses = {"them.test": [PRIVATE]}

    lines = check(THEM)

    assert outcome(lines, f"address {PRIVATE}:8448") == "FAILED"
    assert internet.certificates_asked == []


@pytest.mark.parametrize(
    ("status", "expected", "said"),
    [
        (401, "FAILED", "it cannot check our signature: 401 M_X: a reason"),
        (503, "FAILED", "it answers 503 M_X: a reason"),
        (403, "ok", "it knows us (it answers 403 M_X)"),
    ],
)
def test_what_is_answered_to_our_signature_is_told_by_its_kind(
    internet: Internet, check: Check, status: int, expected: str, said: str
) -> None:
    internet.addresses = {"them.test": [PUBLIC]}
    internet.signed = status

    lines = check(THEM)

    assert (outcome(lines, "signed"), lines["signed"].found) == (expected, said)


def test_clocks_that_are_apart_are_a_failure(internet: Internet, check: Check) -> None:
    internet.addresses = {"them.test": [PUBLIC]}
    internet.ahead_seconds = -7200

    lines = check(THEM)

    assert (outcome(lines, "clock"), lines["clock"].found) == (
        "FAILED",
        "it is 2 h 0 min behind ours",
    )


@pytest.mark.parametrize(("name", "step"), [("not a name", "name"), ("bad.test", "allowed")])
def test_a_name_that_is_none_and_one_that_is_denied_end_the_check(
    check: Check, name: str, step: str
) -> None:
    lines = check(name)

    assert list(lines)[-1] == step
    assert outcome(lines, step) == "FAILED"


def test_every_cause_has_a_word_of_advice() -> None:
    assert set(ADVICE) == {cause.value for cause in FailureCause}


def test_a_failing_queue_is_a_failure(internet: Internet, check: Check) -> None:
    internet.addresses = {"them.test": [PUBLIC]}
    internet.queue = {
        "server_name": THEM,
        "is_failing": True,
        "is_sending": True,
        "events_waiting": 3,
        "events_waiting_is_at_least": False,
        "oldest_waiting_ts": START_MS - 60_000,
        "stored_edus_waiting": 0,
        "light_edus_waiting": 0,
        "dead_letters": 0,
        "failures": 2,
        "failing_since_ts": START_MS - 90_000,
        "next_try_ts": START_MS + 30_000,
        "last_success_ts": None,
        "last_cause": "connect",
        "last_error": "refused",
    }

    lines = check(THEM)

    assert outcome(lines, "our queue") == "FAILED"
    assert "failing for 1 min, 2 failed requests; cause: connect" in lines["our queue"].found
    assert "3 events, the oldest written 1 min ago" in lines["our queue"].found
    assert lines["our queue"].advice == "countersign federation retry them.test"


@pytest.mark.parametrize(
    ("answer", "delegated_name", "expected"),
    [
        (Answer(404, b""), None, "ok"),
        (Answer(404, b""), ServerName("m.us.test:443"), "FAILED"),
        (Answer(200, b'{"m.server":"m.us.test:443"}'), ServerName("m.us.test:443"), "ok"),
        (Answer(200, b'{"m.server":"old.us.test:443"}'), ServerName("m.us.test:443"), "FAILED"),
        (Answer(200, b'{"m.server":"old.us.test:443"}'), None, "FAILED"),
    ],
)
def test_our_own_well_known_must_say_what_is_configured(
    internet: Internet,
    check: Check,
    answer: Answer,
    delegated_name: ServerName | None,
    expected: str,
) -> None:
    internet.well_known = answer
    internet.addresses = {name: [PUBLIC] for name in ("us.test", "m.us.test", "old.us.test")}

    lines = check(US, delegated_name)

    assert outcome(lines, ".well-known") == expected
    assert outcome(lines, "key") == "ok"
    assert "signed" not in lines
